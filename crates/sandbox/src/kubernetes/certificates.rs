//! Certificates and keys of a cluster's own control plane: who its API server is, who may be anything
//! there, and what signs service-account tokens. They have nothing to do with the mesh's.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};

use crate::cluster::ClusterSettings;
use crate::{Error, Result};

/// The files, in one directory.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    dir: PathBuf,
    /// PEM of the cluster's CA.
    pub(super) ca: String,
    /// Of a client in `system:masters`.
    pub(super) admin: Pair,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Certificates {
    /// Makes all of them. `api_server` are addresses besides those that every API server has.
    pub(super) fn create(dir: &Path, settings: &ClusterSettings, api_server: &[Ipv4Addr]) -> Result<Self> {
        let ca = Authority::create(&format!("kubernetes {}", settings.id))?;
        let mut names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V4(settings.service_address(1))),
        ];
        names.extend(api_server.iter().map(|a| SanType::IpAddress(IpAddr::V4(*a))));
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            names.push(SanType::DnsName(name.try_into().map_err(failed)?));
        }
        let server = ca.server("kube-apiserver", names)?;
        let made = Self {
            dir: dir.to_owned(),
            ca: ca.certificate.clone(),
            admin: ca.client("kubernetes-admin", "system:masters")?,
        };
        std::fs::create_dir_all(dir).map_err(Error::io(format!("create {}", dir.display())))?;
        // As clusters have it by default: tokens are signed with RS256.
        let tokens = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(failed)?;
        for (name, content) in [
            ("ca.crt", &ca.certificate),
            ("ca.key", &ca.issuer.key().serialize_pem()),
            ("apiserver.crt", &server.certificate),
            ("apiserver.key", &server.key),
            ("admin.crt", &made.admin.certificate),
            ("admin.key", &made.admin.key),
            ("sa.key", &tokens.serialize_pem()),
            ("sa.pub", &tokens.public_key_pem()),
        ] {
            let path = made.file(name);
            let written = || Error::io(format!("write {}", path.display()));
            std::fs::write(&path, content).map_err(written())?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(written())?;
        }
        Ok(made)
    }

    /// Path of a file by its name, as kubeadm calls them.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn create(name: &str) -> Result<Self> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    fn server(&self, name: &str, names: Vec<SanType>) -> Result<Pair> {
        let mut params = params(name, None);
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn client(&self, user: &str, group: &str) -> Result<Pair> {
        let mut params = params(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        let key = KeyPair::generate().map_err(failed)?;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params(name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
    }
    params
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: rcgen::Error) -> Error {
    Error::Certificate {
        what: "a cluster's API server".to_owned(),
        reason: error.to_string(),
    }
}
