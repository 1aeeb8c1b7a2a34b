//! The store as the clients that people have see it: boto3, aws and rclone, each the real one.

use std::path::Path;

use aws_sdk_s3::config::{Credentials, Region};
use service_kit::Secret;
use store::{Buckets, Credential, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn boto3_aws_and_rclone_work() {
    let root = tempfile::tempdir().unwrap();
    let credential = |access_key: &str, buckets| Credential {
        access_key: access_key.to_owned(),
        secret_key: Secret::new(format!("{access_key}-secret")),
        buckets,
    };
    let credentials = vec![
        credential("operator", Buckets::All),
        credential(
            "alice",
            Buckets::only(["from-boto3", "from-aws", "from-rclone", "from-minio"]),
        ),
    ];
    let store = Store::open(StoreConfig::new(root.path(), credentials)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(store::serve(store, listener, shutdown.clone()));

    let config = aws_sdk_s3::Config::builder()
        .endpoint_url(&url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(
            "operator",
            "operator-secret",
            None,
            None,
            "test",
        ))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .force_path_style(true)
        .build();
    let operator = aws_sdk_s3::Client::from_conf(config);
    operator.create_bucket().bucket("others").send().await.unwrap();
    operator
        .put_object()
        .bucket("others")
        .key("secret")
        .send()
        .await
        .unwrap();

    // The script installs the clients it does not find, which takes a minute the first time.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deployment/scripts/test-clients.sh");
    let run = Command::new(script)
        .args([&url, "alice", "alice-secret", "others"])
        .output()
        .await
        .unwrap();
    let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(
        run.status.success() && said[0].ends_with("clients ok\n"),
        "{}\n{}",
        said[0],
        said[1]
    );

    shutdown.cancel();
    serving.await.unwrap().unwrap();
}
