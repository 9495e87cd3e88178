//! Which TLS is spoken, and a client that asks the server whether it answers.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Protocol versions and cipher suites of a server.
#[derive(Clone, Debug)]
pub struct Versions {
    versions: Vec<&'static SupportedProtocolVersion>,
    provider: Arc<CryptoProvider>,
}

impl Versions {
    /// From flags as MetalLB has them: `minimum` is `VersionTLS12`, `VersionTLS13` or empty for the latter,
    /// `suites` are IANA names separated by commas, or empty for all.
    ///
    /// # Errors
    /// Names what is not known.
    pub fn read(minimum: &str, suites: &str) -> anyhow::Result<Self> {
        let versions = match minimum {
            "" | "VersionTLS13" => vec![&TLS13],
            "VersionTLS12" => vec![&TLS13, &TLS12],
            other => bail!("--tls-min-version: {other:?} is not one of VersionTLS12, VersionTLS13"),
        };
        let mut provider = rustls::crypto::ring::default_provider();
        let known: Vec<_> = provider.cipher_suites.iter().map(|suite| iana(suite.suite())).collect();
        let wanted: Vec<_> = suites.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if let Some(unknown) = wanted.iter().find(|name| !known.iter().any(|known| known == *name)) {
            bail!("--tls-cipher-suites: {unknown:?} is not one of {}", known.join(", "));
        }
        if !wanted.is_empty() {
            provider.cipher_suites.retain(|suite| wanted.contains(&iana(suite.suite()).as_str()));
        }
        Ok(Self { versions, provider: Arc::new(provider) })
    }

    pub(crate) fn versions(&self) -> &[&'static SupportedProtocolVersion] {
        &self.versions
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }
}

/// The suites of TLS 1.3 have another prefix here than at IANA.
fn iana(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replace("TLS13_", "TLS_")
}

/// Asks the server at `port` of this host for `/healthz`, over TLS.
///
/// # Errors
/// When it does not answer so, or has another certificate than `certificate`.
pub async fn ask(port: u16, certificate: &str) -> anyhow::Result<()> {
    let expected =
        CertificateDer::from_pem_slice(certificate.as_bytes()).context("the certificate")?.into_owned();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Exactly { expected, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let answer = timeout(PATIENCE, async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = answer.await.context("no answer")??;
    if &answer != b"HTTP/1.1 200" {
        bail!("the answer was {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// Trusts one certificate, whoever signed it: this asks whether the server has the certificate that it should have.
#[derive(Debug)]
struct Exactly {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *certificate == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("the server has another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spoken_follows_the_flags_and_what_is_not_known_is_named() {
        let read = |minimum: &str, suites: &str| {
            let versions = Versions::read(minimum, suites).map_err(|error| error.to_string())?;
            let suites = versions.provider().cipher_suites.iter().map(|suite| iana(suite.suite())).collect();
            Ok::<(usize, Vec<String>), String>((versions.versions().len(), suites))
        };
        let one = "TLS_AES_128_GCM_SHA256";
        assert_eq!(read("VersionTLS12", &format!(" {one} ,")), Ok((2, vec![one.to_owned()])));
        assert_eq!(read("", one).map(|(versions, _)| versions), Ok(1));
        let (_, all) = read("VersionTLS13", "").unwrap();
        assert!(all.len() > 1 && all.iter().all(|suite| suite.starts_with("TLS_")), "{all:?}");
        let unknown = "--tls-min-version: \"VersionTLS11\" is not one of VersionTLS12, VersionTLS13";
        assert_eq!(read("VersionTLS11", ""), Err(unknown.to_owned()));
        let refused = read("", "TLS_RSA_WITH_RC4_128_SHA").unwrap_err();
        assert!(
            refused.starts_with("--tls-cipher-suites: \"TLS_RSA_WITH_RC4_128_SHA\" is not one of"),
            "{refused}"
        );
    }
}
