//! When the operator counts as ready: the webhooks' server, on loopback.

use std::{net::TcpListener, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Client, client::Body};
use metallb_operator::{
    certificate::{self, Material, Need},
    settings::Settings,
    tls::{self, Versions},
    webhook::{self, Identity},
};
use metallb_runtime::probes::Readiness;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tower_test::mock;

const LIMIT: Duration = Duration::from_secs(10);

fn material() -> Material {
    let names = certificate::names("metallb-operator-webhook-service", "metallb-system");
    certificate::issue(Need::All, None, &names, Timestamp::now()).unwrap()
}

fn identity(material: &Material, is_published: bool) -> Option<Identity> {
    Some(Identity { certificate: material.certificate.clone(), key: material.key.clone(), is_published })
}

/// Waits until the server answers with the certificate of `material`.
async fn answers(port: u16, material: &Material) {
    let asking = async {
        while tls::ask(port, &material.certificate).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, asking).await.expect("the server does not answer with this certificate");
}

async fn becomes(readiness: &Readiness, ready: bool) {
    let asking = async {
        while readiness.get() != ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, asking).await.unwrap_or_else(|_| panic!("it did not become ready={ready}"));
}

#[tokio::test]
async fn it_is_ready_while_its_webhooks_answer_and_the_api_server_trusts_them() {
    let (service, _api_server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let required = ["OPERATOR_NAMESPACE", "POD_NAME", "CONTROLLER_IMAGE", "SPEAKER_IMAGE"];
    let settings = Settings::read(|name| required.contains(&name).then(|| "x".to_owned())).unwrap();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (sender, receiver) = watch::channel(None);
    let (readiness, cancel) = (Readiness::new(), CancellationToken::new());
    let serving = tokio::spawn(webhook::serve(
        ([127, 0, 0, 1], port).into(),
        Versions::read("", "").unwrap(),
        Client::new(service, "default"),
        Arc::new(settings),
        receiver,
        readiness.clone(),
        cancel.clone(),
    ));
    let (first, second) = (material(), material());
    assert!(tls::ask(port, &first.certificate).await.is_err(), "there is no certificate yet");

    sender.send_replace(identity(&first, false));
    answers(port, &first).await;
    assert!(!readiness.get(), "the API server does not trust it yet");
    sender.send_replace(identity(&first, true));
    becomes(&readiness, true).await;

    sender.send_replace(identity(&second, true));
    answers(port, &second).await;
    sender.send_replace(identity(&second, false));
    becomes(&readiness, false).await;
    cancel.cancel();
    timeout(LIMIT, serving).await.unwrap().unwrap().unwrap();
}
