//! An authority of our own for the services' certificates, in one folder.
//!
//! ```text
//!   ca.pem               who is believed: the authority's certificate, and the one before it
//!   ca-key.pem           the authority's key; needed to make certificates, by no service
//!   credit-manager.pem   credit-manager's certificate and key
//!   node-NAME.pem        a node's
//!   pki.json             what the certificates are made for, so that they can be made again
//! ```

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use service_kit::secret::{self, SecretError};
use service_kit::{Secret, file};
use time::{Duration, OffsetDateTime};
use units::NodeId;

use crate::identity::Identity;
use crate::tls::TlsFiles;

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const PLAN: &str = "pki.json";
const CA_NAME: &str = "gridfaas services";
const CA_DAYS: i64 = 5 * 365;
/// How long a service's certificate is good for where nothing else is said.
pub const DAYS: u32 = 30;
/// Clocks differ: a certificate is good from a little before it was made.
const EARLY: Duration = Duration::minutes(5);
/// Every service can be reached by these.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("failed to make the folder `{path}`")]
    Folder {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to read `{path}` (hint: `gridfaas pki init` makes what has to be there)")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to write `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error(transparent)]
    Key(#[from] SecretError),
    #[error("failed to make the certificate `{path}`")]
    Make {
        path: PathBuf,
        #[source]
        err: rcgen::Error,
    },
}

/// What the certificates are made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Names and addresses, beside this machine's own, that clients reach the services by.
    pub hosts: BTreeSet<String>,
    pub nodes: BTreeSet<NodeId>,
    /// How many days the services' certificates are good for.
    pub days: u32,
}

/// A folder with an authority and the certificates it made.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    plan: Plan,
}

impl Pki {
    /// Makes the authority if there is none, and every certificate anew for what was planned before and what is now.
    pub fn init(folder: &Path, more: Plan) -> Result<Self, PkiError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|err| PkiError::Folder {
            path: folder.to_owned(),
            err,
        })?;
        let mut pki = if folder.join(PLAN).exists() {
            Self::open(folder)?
        } else {
            Self {
                folder: folder.to_owned(),
                plan: Plan::default(),
            }
        };
        pki.plan.hosts.extend(more.hosts);
        pki.plan.nodes.extend(more.nodes);
        pki.plan.days = more.days;
        if !folder.join(CA_KEY).exists() {
            pki.make_authority()?;
        }
        pki.make_certificates()?;
        // What could not be made is not planned.
        let text = serde_json::to_vec_pretty(&pki.plan).map_err(io::Error::from);
        let written = text.and_then(|text| file::replace(&folder.join(PLAN), 0o600, &text));
        written.map_err(|err| pki.failed(PLAN, err))?;
        Ok(pki)
    }

    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join(PLAN);
        let plan = std::fs::read(&path)
            .and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from))
            .map_err(|err| PkiError::Read { path, err })?;
        Ok(Self {
            folder: folder.to_owned(),
            plan,
        })
    }

    /// Makes every certificate anew; with `authority`, from a new authority. The old one is believed until the next
    /// time, so that services which have not yet read their new certificates go on.
    pub fn rotate(&self, authority: bool) -> Result<(), PkiError> {
        if authority {
            self.make_authority()?;
        }
        self.make_certificates()
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.join(CA)
    }

    /// The files that a service is told.
    pub fn files(&self, identity: &Identity) -> TlsFiles {
        TlsFiles {
            identity_file: self.folder.join(identity_file(identity)),
            ca_file: self.ca_file(),
        }
    }

    /// Every certificate's holder.
    pub fn identities(&self) -> impl Iterator<Item = Identity> {
        let nodes = self.plan.nodes.iter().cloned().map(Identity::Node);
        std::iter::once(Identity::CreditManager).chain(nodes)
    }

    fn make_authority(&self) -> Result<(), PkiError> {
        let key = KeyPair::generate().map_err(|err| self.unmade(CA, err))?;
        let mut params = authority();
        (params.not_before, params.not_after) = validity(CA_DAYS);
        let certificate = params.self_signed(&key).map_err(|err| self.unmade(CA, err))?;
        let mut believed = certificate.pem();
        if let Ok(before) = std::fs::read_to_string(self.ca_file()) {
            believed += newest(&before);
        }
        // Believed before it is used.
        self.write(CA, 0o644, &believed)?;
        self.write(CA_KEY, 0o600, &key.serialize_pem())
    }

    fn make_certificates(&self) -> Result<(), PkiError> {
        let key = Secret::new(secret::read_private(&self.folder.join(CA_KEY))?);
        let key = KeyPair::from_pem(key.expose()).map_err(|err| self.unmade(CA_KEY, err))?;
        let issuer = Issuer::new(authority(), key);
        for identity in self.identities() {
            let name = identity_file(&identity);
            let made = self.make_certificate(&identity, &issuer);
            let text = made.map_err(|err| self.unmade(&name, err))?;
            self.write(&name, 0o600, &text)?;
        }
        Ok(())
    }

    fn make_certificate(
        &self,
        identity: &Identity,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<String, rcgen::Error> {
        let hosts = LOCAL.into_iter().map(str::to_owned);
        let mut params = CertificateParams::new(hosts.chain(self.plan.hosts.clone()).collect::<Vec<_>>())?;
        let uri = identity.to_string().try_into()?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.distinguished_name = named(&identity.to_string());
        (params.not_before, params.not_after) = validity(self.plan.days.into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if matches!(identity, Identity::Node(_)) {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        Ok(certificate.pem() + &key.serialize_pem())
    }

    fn write(&self, name: &str, mode: u32, text: &str) -> Result<(), PkiError> {
        file::replace(&self.folder.join(name), mode, text.as_bytes()).map_err(|err| self.failed(name, err))
    }

    fn failed(&self, name: &str, err: io::Error) -> PkiError {
        PkiError::Write {
            path: self.folder.join(name),
            err,
        }
    }

    fn unmade(&self, name: &str, err: rcgen::Error) -> PkiError {
        PkiError::Make {
            path: self.folder.join(name),
            err,
        }
    }
}

fn identity_file(identity: &Identity) -> String {
    match identity {
        Identity::CreditManager => "credit-manager.pem".to_owned(),
        Identity::Node(node) => format!("node-{node}.pem"),
    }
}

/// The authority but for its times: the same every time, so that it need not be read back from its certificate.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(days: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - EARLY, now + Duration::days(days))
}

/// The first certificate of a file.
fn newest(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    pem.find(END)
        .map_or("", |at| pem[..(at + END.len() + 1).min(pem.len())].trim_start())
}
