//! TLS between the services, with certificates of our own authority that are read again when their files change.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use service_kit::Chain;
use service_kit::secret::{self, SecretError};
use tracing::{error, info};

/// gRPC runs over HTTP/2 only.
const PROTOCOL: &[u8] = b"h2";
/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// `[tls]` of a service's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The service's certificate and its private key, in PEM; one file, so that both are replaced at once.
    pub identity_file: PathBuf,
    /// The certificates of the authorities that others' certificates have to be from, in PEM.
    pub ca_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{path}` holds no usable {what}")]
    Pem {
        path: PathBuf,
        what: &'static str,
        #[source]
        err: pem::Error,
    },
    #[error("failed to read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error(transparent)]
    Key(#[from] SecretError),
    #[error("the certificate and the key in `{path}` are of no use")]
    Identity {
        path: PathBuf,
        #[source]
        err: rustls::Error,
    },
    #[error("the authorities in `{path}` are of no use")]
    Authorities {
        path: PathBuf,
        #[source]
        err: VerifierBuilderError,
    },
    #[error(
        "{address} can be reached from other machines, and the service has no TLS (hint: make certificates with \
         `gridfaas pki init` and name them under `[tls]`, or listen on 127.0.0.1)"
    )]
    Plaintext { address: SocketAddr },
}

/// Refuses to listen where others can hear without TLS.
pub fn check_listen(address: SocketAddr, tls: Option<&TlsFiles>) -> Result<(), TlsError> {
    match tls {
        None if !address.ip().is_loopback() => Err(TlsError::Plaintext { address }),
        _ => Ok(()),
    }
}

/// Something made of files, made again when one of them has changed.
#[derive(Debug)]
pub struct Reloading<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Made<T>>,
    state: Mutex<State<T>>,
}

trait Made<T>: std::fmt::Debug + Send + Sync {
    fn make(&self) -> Result<T, TlsError>;
}

#[derive(Debug)]
struct State<T> {
    looked_at: Instant,
    stamps: Vec<Option<SystemTime>>,
    made: Arc<T>,
}

impl<T> Reloading<T> {
    fn new(files: Vec<PathBuf>, make: Box<dyn Made<T>>) -> Result<Self, TlsError> {
        let state = State {
            looked_at: Instant::now(),
            stamps: stamps(&files),
            made: Arc::new(make.make()?),
        };
        Ok(Self {
            files,
            make,
            state: Mutex::new(state),
        })
    }

    /// What the files say, as of a second ago at most; while they make no sense, what they said before.
    pub fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= LOOK {
            state.looked_at = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != state.stamps {
                state.stamps = stamps;
                match self.make.make() {
                    Ok(made) => {
                        state.made = Arc::new(made);
                        info!(files = ?self.files, "certificates read again");
                    }
                    Err(err) => {
                        error!(error = %Chain(&err), "the new certificates are of no use, going on with the old ones");
                    }
                }
            }
        }
        state.made.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<SystemTime>> {
    let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    files.iter().map(changed).collect()
}

/// How a service speaks to its clients.
pub type ServerTls = Reloading<ServerConfig>;
/// How a client speaks to services.
pub type ClientTls = Reloading<ClientConfig>;

impl ServerTls {
    /// Clients may show a certificate of our authorities, and nobody else's.
    pub fn server(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::new(
            vec![files.identity_file.clone(), files.ca_file.clone()],
            Box::new(Server(files.clone())),
        )
    }
}

impl ClientTls {
    /// A client with a certificate of its own.
    pub fn client(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::new(
            vec![files.identity_file.clone(), files.ca_file.clone()],
            Box::new(Client {
                ca_file: files.ca_file.clone(),
                identity_file: Some(files.identity_file.clone()),
            }),
        )
    }

    /// A client that shows a token, or nothing.
    pub fn anonymous(ca_file: &Path) -> Result<Self, TlsError> {
        Self::new(
            vec![ca_file.to_owned()],
            Box::new(Client {
                ca_file: ca_file.to_owned(),
                identity_file: None,
            }),
        )
    }
}

#[derive(Debug)]
struct Server(TlsFiles);

impl Made<ServerConfig> for Server {
    fn make(&self) -> Result<ServerConfig, TlsError> {
        let (certificates, key) = identity(&self.0.identity_file)?;
        let roots = Arc::new(authorities(&self.0.ca_file)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|err| TlsError::Authorities {
                path: self.0.ca_file.clone(),
                err,
            })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map(|builder| builder.with_client_cert_verifier(verifier))
            .and_then(|builder| builder.with_single_cert(certificates, key))
            .map_err(|err| unusable(&self.0.identity_file, err))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

#[derive(Debug)]
struct Client {
    ca_file: PathBuf,
    identity_file: Option<PathBuf>,
}

impl Made<ClientConfig> for Client {
    fn make(&self) -> Result<ClientConfig, TlsError> {
        let roots = authorities(&self.ca_file)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|err| unusable(&self.ca_file, err))?
            .with_root_certificates(roots);
        let mut config = match &self.identity_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let (certificates, key) = identity(path)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .map_err(|err| unusable(path, err))?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unusable(path: &Path, err: rustls::Error) -> TlsError {
    TlsError::Identity {
        path: path.to_owned(),
        err,
    }
}

fn identity(path: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let text = secret::read_private(path)?;
    let malformed = |what| {
        move |err| TlsError::Pem {
            path: path.to_owned(),
            what,
            err,
        }
    };
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes());
    Ok((
        certificates.map_err(malformed("certificate"))?,
        key.map_err(malformed("private key"))?,
    ))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let text = std::fs::read(path).map_err(|err| TlsError::Read {
        path: path.to_owned(),
        err,
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|err| TlsError::Pem {
            path: path.to_owned(),
            what: "certificate",
            err,
        })?;
        roots.add(certificate).map_err(|err| unusable(path, err))?;
    }
    Ok(roots)
}
