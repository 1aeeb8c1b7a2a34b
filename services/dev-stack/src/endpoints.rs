//! Where a running stack listens: written by `up`, read by the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::Target;
use access::client::Meant;
use access::tls::{ClientTls, TlsError};
use serde::{Deserialize, Serialize};
use service_kit::file;

const FILE_NAME: &str = "endpoints.json";

/// The addresses of one stack, and the files that hold the secrets to use them. Of the secrets themselves only the dashboard's
/// key is in here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub data_dir: PathBuf,
    pub s3_url: String,
    /// An AWS shared credentials file, as S3 clients read it.
    pub s3_credentials_file: PathBuf,
    /// gRPC of credit-manager.
    pub credit_url: String,
    /// gRPC of container-manager.
    pub container_url: String,
    /// For a browser on this machine, with the key that lets it in. Absent where none is served.
    pub dashboard_url: Option<String>,
    /// What the node tells of itself over HTTP. Absent where it does not.
    pub node_url: Option<String>,
    /// A token that opens everything, until the stack stops.
    pub operator_token_file: PathBuf,
    /// Whom to believe where the addresses are `https://…`.
    pub ca_file: Option<PathBuf>,
    /// Absent where the wallet is on a real chain.
    pub dev_chain: Option<DevChainEndpoint>,
}

/// The development chain's JSON-RPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevChainEndpoint {
    pub url: String,
    pub user: String,
    pub password_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum EndpointsError {
    #[error("failed to read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error(
        "`{path}` does not say where a stack is (hint: another version wrote it; start `gridfaas up` again)"
    )]
    Invalid {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("failed to write `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl Endpoints {
    /// The addresses of the stack that runs on a data folder; `None` if none was started, or it was stopped.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, EndpointsError> {
        let path = data_dir.join(FILE_NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(EndpointsError::Read { path, err }),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|err| EndpointsError::Invalid { path, err })
    }

    /// Publishes the addresses in the data folder, for its owner only. A reader sees all of the file or none.
    pub fn write(&self) -> Result<(), EndpointsError> {
        let path = self.data_dir.join(FILE_NAME);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| file::replace(&path, 0o600, &text))
            .map_err(|err| EndpointsError::Write { path, err })
    }

    /// How its operator reaches one of its services.
    pub fn target(&self, meant: Meant) -> Result<Target, TlsError> {
        let url = match meant {
            Meant::CreditManager => &self.credit_url,
            Meant::Node => &self.container_url,
        };
        let tls = self.ca_file.as_deref().map(ClientTls::anonymous).transpose()?;
        Ok(Target {
            url: url.clone(),
            meant,
            tls: tls.map(Arc::new),
            token_file: Some(self.operator_token_file.clone()),
        })
    }

    /// Says that no stack runs on a data folder any more.
    pub fn remove(data_dir: &Path) -> Result<(), EndpointsError> {
        let path = data_dir.join(FILE_NAME);
        match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(EndpointsError::Write { path, err }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn endpoints(data_dir: &Path) -> Endpoints {
        Endpoints {
            data_dir: data_dir.to_owned(),
            s3_url: "http://127.0.0.1:9000".to_owned(),
            s3_credentials_file: data_dir.join("secrets/s3-credentials"),
            credit_url: "http://127.0.0.1:7402".to_owned(),
            container_url: "http://127.0.0.1:7403".to_owned(),
            dashboard_url: None,
            node_url: None,
            operator_token_file: data_dir.join("credit-manager/operator-token"),
            ca_file: None,
            dev_chain: None,
        }
    }

    #[test]
    fn what_is_published_is_found_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Endpoints::read(folder.path()).unwrap(), None);
        let endpoints = endpoints(folder.path());
        endpoints.write().unwrap();
        assert_eq!(Endpoints::read(folder.path()).unwrap(), Some(endpoints));
        Endpoints::remove(folder.path()).unwrap();
        Endpoints::remove(folder.path()).unwrap();
        assert_eq!(Endpoints::read(folder.path()).unwrap(), None);
    }

    #[test]
    fn only_the_owner_may_read_the_file() {
        let folder = tempfile::tempdir().unwrap();
        endpoints(folder.path()).write().unwrap();
        let mode = fs::metadata(folder.path().join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_another_shape_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "{}").unwrap();
        let err = Endpoints::read(folder.path()).unwrap_err();
        assert!(err.to_string().contains(FILE_NAME), "{err}");
    }
}
