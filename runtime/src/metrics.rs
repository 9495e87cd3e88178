//! `/metrics` over HTTPS, for whoever may `get` the path `/metrics` by the cluster's own RBAC.
//!
//! A request carries a bearer token. The API server says whose it is (TokenReview) and whether that user may read
//! the metrics (SubjectAccessReview on the non-resource path). An answer is kept for a minute.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{listen, page::Page, probes::JSON};

const PATH: &str = "/metrics";
/// How long an answer about a token holds.
const CACHED: Duration = Duration::from_secs(60);
/// Tokens whose answers are kept; more are asked anew.
const CACHE_SIZE: usize = 100;
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the metrics are served, and with which certificate.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// Folder with `tls.crt` and `tls.key`; `None` for a certificate that is made at start and signed by itself.
    pub certificates: Option<PathBuf>,
}

/// Serves `registry` until `cancel`, without further pages: see [`serve_with`].
///
/// # Errors
/// As [`serve_with`].
pub async fn serve(
    endpoint: Endpoint,
    registry: Arc<Registry>,
    client: Client,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    serve_with(endpoint, registry, None, client, cancel).await
}

/// Serves `registry`, and `page` to whoever may read the metrics, until `cancel`.
///
/// # Errors
/// When the address cannot be bound or the certificate not be read, naming it.
pub async fn serve_with(
    endpoint: Endpoint,
    registry: Arc<Registry>,
    page: Option<Page>,
    client: Client,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    // Fails only when the process has a provider already: then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = match &endpoint.certificates {
        Some(folder) => from_folder(folder).await?,
        None => self_signed().await?,
    };
    let state = Gatekeeper { registry, client, answers: Arc::default() };
    let mut routes = Router::new().route(PATH, get(metrics));
    if let Some(page) = page {
        let path = page.path;
        let show = async move |State(gatekeeper): State<Gatekeeper>, headers: HeaderMap| match gatekeeper
            .judge(&headers)
            .await
        {
            StatusCode::OK => ([JSON], page.text().await).into_response(),
            refused => refused.into_response(),
        };
        routes = routes.route(path, get(show));
    }
    let routes = routes.with_state(state);
    let handle = axum_server::Handle::new();
    let stopping = handle.clone();
    tokio::spawn(async move {
        cancel.cancelled().await;
        stopping.shutdown();
    });
    let served = async {
        let server = axum_server::from_tcp_rustls(listen::bind(endpoint.address)?, tls)?;
        server.handle(handle).serve(routes.into_make_service()).await
    };
    served.await.with_context(|| format!("metrics: cannot serve on {}", endpoint.address))
}

async fn from_folder(folder: &Path) -> anyhow::Result<RustlsConfig> {
    RustlsConfig::from_pem_file(folder.join("tls.crt"), folder.join("tls.key"))
        .await
        .with_context(|| format!("metrics: tls.crt and tls.key in {}", folder.display()))
}

async fn self_signed() -> anyhow::Result<RustlsConfig> {
    let made = rcgen::generate_simple_self_signed(Vec::new())?;
    let (certificate, key) = (made.cert.der().to_vec(), made.signing_key.serialize_der());
    Ok(RustlsConfig::from_der(vec![certificate], key).await?)
}

#[derive(Clone)]
struct Gatekeeper {
    registry: Arc<Registry>,
    client: Client,
    answers: Arc<Mutex<HashMap<String, (StatusCode, Instant)>>>,
}

async fn metrics(State(gatekeeper): State<Gatekeeper>, headers: HeaderMap) -> Response {
    match gatekeeper.judge(&headers).await {
        StatusCode::OK => {}
        refused => return refused.into_response(),
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &gatekeeper.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Gatekeeper {
    async fn judge(&self, headers: &HeaderMap) -> StatusCode {
        let Some(token) = bearer(headers) else { return StatusCode::UNAUTHORIZED };
        let now = Instant::now();
        let mut answers = self.answers.lock().await;
        answers.retain(|_, (_, at)| now.duration_since(*at) < CACHED);
        if let Some((answer, _)) = answers.get(token) {
            return *answer;
        }
        match self.ask(token).await {
            Ok(answer) => {
                if answers.len() < CACHE_SIZE {
                    answers.insert(token.to_owned(), (answer, now));
                }
                answer
            }
            Err(error) => {
                tracing::warn!(%error, "metrics: cannot tell who asks");
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    async fn ask(&self, token: &str) -> kube::Result<StatusCode> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let (Some(true), Some(user)) = (status.authenticated, status.user) else {
            return Ok(StatusCode::UNAUTHORIZED);
        };
        let access = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(PATH.to_owned()),
                    verb: Some("get".to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &access).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if allowed { StatusCode::OK } else { StatusCode::FORBIDDEN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_a_bearer_token_is_a_token() {
        let table = [
            (None, None),
            (Some("Bearer abc"), Some("abc")),
            (Some("bearer abc"), Some("abc")),
            (Some("Bearer "), None),
            (Some("Basic abc"), None),
            (Some("abc"), None),
        ];
        for (value, want) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(bearer(&headers), want, "{value:?}");
        }
    }
}
