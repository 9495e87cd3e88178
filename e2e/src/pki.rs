//! Keys, certificates and kubeconfigs of one cluster, made anew with it.

use std::fs;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

use crate::layout::{API_SERVER, cp, node, state};

/// Writes `pki/` of the state: `ca.crt`, `sa.key`, `sa.pub`, and NAME.crt, NAME.key, NAME.conf for each identity.
pub(crate) fn write(nodes: u8) -> Result<()> {
    let folder = state("pki");
    fs::create_dir_all(&folder)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = name("metallb-lab-ca", None);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.crt"), ca.pem())?;
    let service_accounts = KeyPair::generate()?;
    fs::write(folder.join("sa.key"), service_accounts.serialize_pem())?;
    fs::write(folder.join("sa.pub"), service_accounts.public_key_pem())?;

    let api_names = [
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "10.96.0.1".to_owned(),
        "fd00:96::1".to_owned(),
        cp().v4(),
        cp().v6(),
    ];
    let mut identities = vec![
        ("apiserver".to_owned(), "kube-apiserver".to_owned(), None, api_names.to_vec()),
        ("admin".to_owned(), "admin".to_owned(), Some("system:masters"), Vec::new()),
        ("kcm".to_owned(), "system:kube-controller-manager".to_owned(), None, Vec::new()),
        ("scheduler".to_owned(), "system:kube-scheduler".to_owned(), None, Vec::new()),
        ("proxy".to_owned(), "system:kube-proxy".to_owned(), None, Vec::new()),
    ];
    identities.extend((1..=nodes).map(node).map(|host| {
        let sans = vec![host.name.clone(), host.v4(), host.v6()];
        (host.name.clone(), format!("system:node:{}", host.name), Some("system:nodes"), sans)
    }));
    for (file, common_name, organization, sans) in identities {
        let mut params = CertificateParams::new(sans)?;
        params.distinguished_name = name(&common_name, organization);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &ca)?;
        fs::write(folder.join(format!("{file}.crt")), certificate.pem())?;
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
        fs::write(folder.join(format!("{file}.conf")), kubeconfig(&file))?;
    }
    Ok(())
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

fn kubeconfig(identity: &str) -> String {
    let folder = state("pki");
    let folder = folder.display();
    format!(
        r#"apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {{server: "{API_SERVER}", certificate-authority: {folder}/ca.crt}}
users:
- name: {identity}
  user: {{client-certificate: {folder}/{identity}.crt, client-key: {folder}/{identity}.key}}
contexts:
- name: lab
  context: {{cluster: lab, user: {identity}}}
current-context: lab
"#
    )
}
