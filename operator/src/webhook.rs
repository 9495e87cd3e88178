//! The HTTPS server that answers the API server's questions about objects of metallb.io.
//!
//! Every replica of the operator answers, also one that does not lead. The pod counts as ready once the server has
//! answered a request of its own over TLS and the API server trusts its certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{get, post},
};
use axum_server::tls_rustls::RustlsConfig;
use kube::{
    Client,
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
    },
};
use metallb_runtime::probes::Readiness;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{self, Answer, Question},
    cluster,
    settings::{REQUEST_TIMEOUT, Settings},
    tls,
};

/// An object is at most 1.5 MiB, and a request holds two.
const LARGEST_REQUEST: usize = 7 * 1024 * 1024;

/// When a server that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often one that answered is asked.
const LOOK: Duration = Duration::from_secs(10);
/// As many times in a row one that answered before may fail to.
const ENOUGH: u32 = 3;

/// Certificate of the server and whether the API server trusts it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Certificate chain in PEM.
    pub certificate: String,
    /// Key in PEM.
    pub key: String,
    /// Whether the API server trusts it wherever it asks.
    pub is_published: bool,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("is_published", &self.is_published).finish_non_exhaustive()
    }
}

/// Serves on `address` with the certificate that `identity` holds, from when there is one until `cancel`, and keeps
/// `readiness`.
///
/// # Errors
/// When the address cannot be bound, naming it.
pub async fn serve(
    address: SocketAddr,
    versions: tls::Versions,
    client: Client,
    settings: Arc<Settings>,
    mut identity: watch::Receiver<Option<Identity>>,
    readiness: Readiness,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        first = usable(&mut identity, &versions) => first?,
    };
    let config = RustlsConfig::from_config(first);
    let handle = axum_server::Handle::new();
    let routes = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/{*path}", post(review))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(Asked { client, settings });
    let server = axum_server::bind_rustls(address, config.clone())
        .http1_only()
        .handle(handle.clone())
        .serve(routes.into_make_service());
    tokio::select! {
        result = server => result.with_context(|| format!("webhooks: cannot serve on {address}")),
        result = async {
            let address = handle.listening().await.context("webhooks: the server ended")?;
            let take = |current: &Identity| match server_config(current, &versions) {
                Ok(new) => config.reload_from_config(new),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the webhooks' certificate cannot be used");
                }
            };
            let ask = |certificate: String| async move { tls::ask(address.port(), &certificate).await };
            keep(take, ask, identity, &readiness).await
        } => result,
        () = cancel.cancelled() => {
            handle.graceful_shutdown(Some(Duration::from_secs(2)));
            Ok(())
        }
    }
}

/// Waits for a certificate that can be used.
async fn usable(
    identity: &mut watch::Receiver<Option<Identity>>,
    versions: &tls::Versions,
) -> anyhow::Result<Arc<ServerConfig>> {
    loop {
        let current = identity.borrow_and_update().clone();
        match current.map(|identity| server_config(&identity, versions)) {
            Some(Ok(config)) => return Ok(config),
            Some(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "the webhooks' certificate cannot be used");
            }
            None => {}
        }
        identity.changed().await.context("nobody makes a certificate any more")?;
    }
}

fn server_config(identity: &Identity, versions: &tls::Versions) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).context("its key")?;
    let builder = ServerConfig::builder_with_provider(versions.provider())
        .with_protocol_versions(versions.versions())?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain.context("its chain")?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Has the server `take` new certificates up, and says whether it answers: it may stop doing so at any time.
///
/// # Errors
/// When it does not answer any more: then it is begun anew.
async fn keep<Answer>(
    take: impl Fn(&Identity),
    ask: impl Fn(String) -> Answer,
    mut identity: watch::Receiver<Option<Identity>>,
    readiness: &Readiness,
) -> anyhow::Result<()>
where
    Answer: Future<Output = anyhow::Result<()>>,
{
    let mut taken = String::new();
    let mut failures = 0;
    let mut has_answered = false;
    loop {
        let current = identity.borrow_and_update().clone();
        let mut answers = false;
        if let Some(current) = current {
            if taken != current.certificate {
                take(&current);
                taken.clone_from(&current.certificate);
                (failures, has_answered) = (0, false);
            }
            match ask(current.certificate).await {
                Ok(()) => (answers, failures) = (true, 0),
                Err(error) => {
                    failures += 1;
                    tracing::warn!(failures, error = format!("{error:#}"), "the webhooks do not answer");
                    if has_answered && failures >= ENOUGH {
                        return Err(error.context("the webhooks do not answer any more"));
                    }
                }
            }
            has_answered |= answers;
            readiness.set(current.is_published && answers);
        }
        tokio::select! {
            changed = identity.changed() => changed.context("nobody makes a certificate any more")?,
            () = sleep(if answers { LOOK } else { AGAIN }) => {}
        }
    }
}

#[derive(Clone)]
struct Asked {
    client: Client,
    settings: Arc<Settings>,
}

async fn review(
    State(asked): State<Asked>,
    Json(review): Json<AdmissionReview<DynamicObject>>,
) -> Result<Json<AdmissionReview<DynamicObject>>, StatusCode> {
    let request: AdmissionRequest<DynamicObject> = review.try_into().map_err(|_| StatusCode::BAD_REQUEST)?;
    let response = AdmissionResponse::from(&request);
    let question = Question {
        kind: &request.kind.kind,
        namespace: request.namespace.as_deref().unwrap_or_default(),
        name: &request.name,
        object: request.object.as_ref(),
        old: request.old_object.as_ref(),
    };
    let answer = judge(&asked, &question, &request.operation).await;
    tracing::debug!(
        kind = question.kind,
        name = question.name,
        allowed = answer.denials.is_empty(),
        "admission judged"
    );
    let mut response =
        if answer.denials.is_empty() { response } else { response.deny(answer.denials.join("; ")) };
    response.warnings = (!answer.warnings.is_empty()).then_some(answer.warnings);
    Ok(Json(response.into_review()))
}

async fn judge(asked: &Asked, question: &Question<'_>, operation: &Operation) -> Answer {
    let pool = matches!(question.kind, "IPAddressPool" | "AddressPool");
    let scope = cluster::Scope {
        services: pool && *operation != Operation::Create,
        network: pool && *operation != Operation::Delete,
    };
    let existing = if question.kind == "MetalLB" {
        Ok(admission::Existing::default())
    } else {
        let read = Box::pin(cluster::existing(&asked.client, &asked.settings, scope));
        match tokio::time::timeout(REQUEST_TIMEOUT, read).await {
            Ok(existing) => existing.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
        }
    };
    match existing {
        Ok(existing) => admission::judge(question, &existing, &asked.settings),
        Err(error) => unread(question, &error),
    }
}

/// The answer when what exists cannot be read. Nothing that is on its way out is held up, nor what asks for nothing new:
/// the installation itself may be deleted, its rights first.
fn unread(question: &Question<'_>, error: &str) -> Answer {
    let mut answer = Answer::default();
    if question.asks_for_more() {
        answer.denials.push(format!("what exists cannot be read, so nothing can be judged: {error}"));
    } else {
        answer
            .warnings
            .push(format!("what exists cannot be read, so it is not told what depends on this: {error}"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock;

    use super::*;

    /// The answer while the API server refuses whatever is asked.
    async fn refused(operation: Operation, object: Option<Value>, old: Option<Value>) -> Answer {
        answered(operation, object, old, |_| true).await
    }

    /// The answer while the API server refuses some paths, and knows nothing below the others.
    async fn answered(
        operation: Operation,
        object: Option<Value>,
        old: Option<Value>,
        refuses: fn(&str) -> bool,
    ) -> Answer {
        let (service, mut api_server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
        tokio::spawn(async move {
            while let Some((request, send)) = api_server.next_request().await {
                let status = json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
                                    "message": "no rights"});
                let nothing = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []});
                let (code, body) = if refuses(request.uri().path()) { (403, status) } else { (200, nothing) };
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                send.send_response(http::Response::builder().status(code).body(body).unwrap());
            }
        });
        let required = ["OPERATOR_NAMESPACE", "POD_NAME", "CONTROLLER_IMAGE", "SPEAKER_IMAGE"];
        let settings = Settings::read(|name| required.contains(&name).then(|| "x".to_owned())).unwrap();
        let asked = Asked { client: Client::new(service, "default"), settings: Arc::new(settings) };
        let pool = |pool: Option<Value>| pool.map(|pool| serde_json::from_value(pool).unwrap());
        let (object, old): (Option<DynamicObject>, Option<DynamicObject>) = (pool(object), pool(old));
        let question = Question {
            kind: "IPAddressPool",
            namespace: "x",
            name: "p",
            object: object.as_ref(),
            old: old.as_ref(),
        };
        judge(&asked, &question, &operation).await
    }

    #[tokio::test]
    async fn what_is_only_told_of_denies_nothing_when_it_cannot_be_read() {
        let pool = |range: &str| {
            Some(
                json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "spec": {"addresses": [range]},
                       "metadata": {"name": "p", "namespace": "x"}}),
            )
        };
        let refuses = |path: &str| path.ends_with("/services") || path.ends_with("/nodes");
        let answer = answered(Operation::Update, pool("192.0.2.0/28"), pool("192.0.2.0/24"), refuses).await;
        assert_eq!(answer.denials, Vec::<String>::new());
        for what in ["Services cannot be read", "the cluster's own addresses cannot be read"] {
            assert!(answer.warnings.iter().any(|warning| warning.starts_with(what)), "{:?}", answer.warnings);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stops_answering_is_not_ready_and_is_begun_anew() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (sender, identity) = watch::channel(Some(Identity { is_published: true, ..Identity::default() }));
        let hangs = Arc::new(AtomicBool::new(false));
        let is_hung = hangs.clone();
        let ask = move |_| {
            let hangs = is_hung.load(Ordering::Relaxed);
            async move { if hangs { Err(anyhow::anyhow!("no answer")) } else { Ok(()) } }
        };
        let readiness = Readiness::new();
        let kept = readiness.clone();
        let keeping = tokio::spawn(async move { keep(|_| {}, ask, identity, &kept).await });
        let becomes = async |ready: bool| {
            let waiting = async {
                while readiness.get() != ready {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(11), waiting).await.unwrap();
        };
        becomes(true).await;
        hangs.store(true, Ordering::Relaxed);
        becomes(false).await;
        let error =
            tokio::time::timeout(Duration::from_secs(5), keeping).await.unwrap().unwrap().unwrap_err();
        assert_eq!(format!("{error:#}"), "the webhooks do not answer any more: no answer");
        drop(sender);
    }

    #[tokio::test]
    async fn though_nothing_can_be_read_what_goes_or_asks_for_nothing_new_is_let_through() {
        let pool = |range: &str| {
            Some(
                json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "p"},
                        "spec": {"addresses": [range]}}),
            )
        };
        let (one, other) = ("192.0.2.0/28", "192.0.2.0/24");
        let mut leaving = pool(other);
        leaving.as_mut().unwrap()["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        let table = [
            (Operation::Delete, None, pool(one), true),
            (Operation::Update, pool(one), pool(one), true),
            (Operation::Update, leaving, pool(one), true),
            (Operation::Update, pool(other), pool(one), false),
            (Operation::Create, pool(one), None, false),
        ];
        for (operation, object, old, passes) in table {
            let answer = refused(operation, object, old).await;
            assert_eq!(answer.denials.is_empty(), passes, "{answer:?}");
            let told = answer.denials.iter().chain(&answer.warnings).next().unwrap();
            assert!(told.contains("no rights"), "{told}");
        }
    }
}
