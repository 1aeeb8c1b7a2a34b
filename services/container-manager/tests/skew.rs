//! A store that finds this machine's clock wrong.

use axum::Router;
use axum::http::StatusCode;
use container_manager::store::{ObjectStore as _, S3Store, StoreConfig, StoreError};
use service_kit::{Chain, Secret};
use tokio::net::TcpListener;

const ANSWER: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>RequestTimeTooSkewed</Code>\
    <Message>The difference between the request time and the current time is too large.</Message></Error>";

#[tokio::test]
async fn a_store_that_finds_our_clock_wrong_is_not_taken_for_one_that_refuses_our_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = serde_json::json!({
        "endpoint": format!("http://{}", listener.local_addr().unwrap()),
        "access_key": "node",
        "secret_key_file": "/dev/null",
    });
    let config: StoreConfig = serde_json::from_value(config).unwrap();
    let refuse = Router::new().fallback(|| async { (StatusCode::FORBIDDEN, ANSWER) });
    tokio::spawn(async move { axum::serve(listener, refuse).await });
    let store = S3Store::new(&config, &Secret::new("secret"));
    let err = store.list("bucket", "input/", None, 1).await.unwrap_err();
    assert!(matches!(err, StoreError::WrongClock { .. }), "{err:?}");
    assert!(err.is_transient() && Chain(&err).to_string().contains("clock"));
}
