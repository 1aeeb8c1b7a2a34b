//! A client of a store of our own.

use aws_sdk_s3::config::{BehaviorVersion, Builder, Config, Credentials, Region};
use aws_smithy_http_client::tls;
use dev_stack::S3Credentials;

/// How the store at `url` is spoken to; a test may add to it.
pub fn config(url: impl Into<String>, credentials: &S3Credentials) -> Builder {
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client)
        .endpoint_url(url)
        .force_path_style(true)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new(
            &credentials.access_key,
            credentials.secret_key.expose(),
            None,
            None,
            "test",
        ))
}
