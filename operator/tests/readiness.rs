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
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::watch, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;
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

/// A server of webhooks on loopback, and its port.
struct Server {
    port: u16,
    identity: watch::Sender<Option<Identity>>,
    readiness: Readiness,
    cancel: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    _api_server: mock::Handle<http::Request<Body>, http::Response<Body>>,
}

fn serve() -> Server {
    let (service, api_server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let required = ["OPERATOR_NAMESPACE", "POD_NAME", "CONTROLLER_IMAGE", "SPEAKER_IMAGE"];
    let settings = Settings::read(|name| required.contains(&name).then(|| "x".to_owned())).unwrap();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (identity, receiver) = watch::channel(None);
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
    Server { port, identity, readiness, cancel, serving, _api_server: api_server }
}

/// What the server agrees to speak with a client that offers `protocols`.
async fn agreed(port: u16, material: &Material, protocols: &[&str]) -> std::io::Result<Option<Vec<u8>>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(material.bundle.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("metallb-operator-webhook-service.metallb-system.svc").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test]
async fn the_webhooks_do_not_speak_http_2() {
    let server = serve();
    let material = material();
    server.identity.send_replace(identity(&material, true));
    answers(server.port, &material).await;
    assert!(agreed(server.port, &material, &["h2"]).await.is_err(), "nothing else was offered");
    let both = agreed(server.port, &material, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(both.as_deref(), Some(b"http/1.1".as_slice()));
}

#[tokio::test]
async fn it_is_ready_while_its_webhooks_answer_and_the_api_server_trusts_them() {
    let Server { port, identity: sender, readiness, cancel, serving, _api_server } = serve();
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
