//! The store as the clients that people have see it: boto3, aws and rclone, each the real one.

use std::path::Path;

use service_kit::Secret;
use store::{Buckets, Credential, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn boto3_aws_and_rclone_work() {
    let root = tempfile::tempdir().unwrap();
    let credential = Credential {
        access_key: "operator".to_owned(),
        secret_key: Secret::new("operator-secret"),
        buckets: Buckets::All,
    };
    let store = Store::open(StoreConfig::new(root.path(), vec![credential])).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(store::serve(store, listener, shutdown.clone()));

    // The script installs the clients it does not find, which takes a minute the first time.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deployment/scripts/test-clients.sh");
    let run = Command::new(script)
        .args([&url, "operator", "operator-secret"])
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
