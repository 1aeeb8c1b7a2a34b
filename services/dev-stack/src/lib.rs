//! Every service of gridfaas in one process, on embedded defaults: an S3 store and a development chain in place of real
//! ones. Nothing else differs from services that run apart: they talk through the same sockets.
//!
//! ```text
//!   data folder
//!   ├── id                  names the stack's control groups, apart from other stacks'
//!   ├── endpoints.json      where the running stack listens, for the command line
//!   ├── secrets/            keys and passwords, made at the first start
//!   ├── store/              buckets
//!   ├── chain.json          blocks and wallet of the development chain
//!   ├── credit-manager/     the ledger
//!   └── container-manager/  journal, images, containers
//! ```

mod endpoints;
mod ports;
mod secrets;
mod services;
mod settings;
mod up;
mod user_keys;

pub use endpoints::{DevChainEndpoint, Endpoints, EndpointsError};
pub use ports::{ListenError, Port, Ports};
pub use secrets::{S3Credentials, SecretsError};
pub use up::{UpConfig, up};
