//! A real server behind the door: every method with every role, and certificates over real connections.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access::client::{ConnectError, Meant};
use access::identity::Identity;
use access::matrix::MATRIX;
use access::pki::{Pki, Plan};
use access::tls::{ClientTls, ServerTls, TlsFiles};
use access::token::random;
use access::{AccessLayer, Authority, Caller, Role, Target, TokenHash, listener, token};
use async_trait::async_trait;
use futures::future::{Ready, ready};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Layer as _, ServiceExt as _, service_fn};

fn callers() -> [Caller; 5] {
    [
        Caller::Operator,
        Caller::Auditor,
        Caller::User("alice".parse().unwrap()),
        Caller::Node(None),
        Caller::Anyone,
    ]
}

/// Tokens are the names of roles.
struct ByName(Mutex<Vec<Caller>>);

#[async_trait]
impl Authority for ByName {
    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, Status> {
        let known = self.0.lock().unwrap();
        let found = known
            .iter()
            .find(|caller| TokenHash::of(caller.role().as_str()) == *token);
        Ok(found.cloned())
    }
}

fn door() -> (AccessLayer, Arc<ByName>) {
    let authority = Arc::new(ByName(Mutex::new(callers().to_vec())));
    (AccessLayer::new(authority.clone()), authority)
}

fn request(path: &str, token: Option<&str>) -> http::Request<Body> {
    let mut request = http::Request::builder().uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::empty()).unwrap()
}

fn code(response: &http::Response<Body>) -> Option<Code> {
    let status = response.headers().get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// Answers with the role it was told.
fn inner(request: http::Request<Body>) -> Ready<Result<http::Response<Body>, std::convert::Infallible>> {
    let caller = request.extensions().get::<Caller>().unwrap();
    let response = http::Response::builder().header("role", caller.role().as_str());
    ready(Ok(response.body(Body::empty()).unwrap()))
}

#[tokio::test]
async fn every_method_lets_in_the_roles_of_its_row_and_no_other() {
    let (layer, _authority) = door();
    for row in MATRIX {
        for caller in callers() {
            let role = caller.role();
            let token = (role != Role::Anyone).then_some(role.as_str());
            let response = layer.layer(service_fn(inner)).oneshot(request(row.path, token));
            let response = response.await.unwrap();
            let refused = match (row.scope(role), role) {
                (Some(_), _) => None,
                (None, Role::Anyone) => Some(Code::Unauthenticated),
                (None, _) => Some(Code::PermissionDenied),
            };
            assert_eq!(code(&response), refused, "{role} at {}", row.path);
            if refused.is_none() {
                assert_eq!(response.headers()["role"], role.as_str());
            }
        }
    }
}

#[tokio::test]
async fn what_has_no_row_and_who_has_no_token_are_refused() {
    let (layer, _authority) = door();
    let ask = async |request| {
        let response = layer.layer(service_fn(inner)).oneshot(request).await.unwrap();
        code(&response)
    };
    for path in [
        "/",
        "/gridfaas.credit.v1.AccountService/DropEverything",
        "/gridfaas.credit.v1.AccountService/GetUser/",
        "/gridfaas.credit.v1.accountservice/getuser",
    ] {
        let answer = ask(request(path, Some("operator"))).await;
        assert_eq!(answer, Some(Code::Unimplemented), "{path}");
    }
    // A wrong token is refused where none is needed, too.
    let open = "/gridfaas.container.v1.ContainerService/GetNode";
    assert_eq!(ask(request(open, None)).await, None);
    assert_eq!(
        ask(request(open, Some("guess"))).await,
        Some(Code::Unauthenticated)
    );
    let mut basic = request(open, None);
    let value = "Basic operator".parse().unwrap();
    basic.headers_mut().insert("authorization", value);
    assert_eq!(ask(basic).await, Some(Code::Unauthenticated));
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_ends_within_seconds_of_its_tokens_end() {
    use http_body::Body as _;
    let (layer, authority) = door();
    let endless = |_: http::Request<Body>| {
        let frames = futures::stream::pending::<Result<http_body::Frame<_>, Status>>();
        let body = Body::new(http_body_util::StreamBody::new(frames));
        ready(Ok::<_, std::convert::Infallible>(http::Response::new(body)))
    };
    let path = "/gridfaas.container.v1.ContainerService/ReadLog";
    let response = layer
        .layer(service_fn(endless))
        .oneshot(request(path, Some("user")));
    let mut body = response.await.unwrap().into_body();
    let mut frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context));
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, &mut frame).await.is_err());
    authority.0.lock().unwrap().clear();
    let ended = tokio::time::timeout(Duration::from_secs(5), frame).await;
    let trailers = ended.unwrap().unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        Code::from_bytes(trailers["grpc-status"].as_bytes()),
        Code::Unauthenticated
    );
}

/// Remembers who asked last.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Option<Caller>>>);

impl Asked {
    async fn serve(&self, tls: Option<&TlsFiles>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = tls.map(|files| Arc::new(ServerTls::server(files).unwrap()));
        let asked = self.clone();
        let health = HealthService::from_health_reporter(HealthReporter::new());
        let health = HealthServer::with_interceptor(health, move |request: Request<()>| {
            *asked.0.lock().unwrap() = Some(Caller::of(&request)?);
            Ok(request)
        });
        let server = Server::builder().layer(door().0).add_service(health);
        tokio::spawn(server.serve_with_incoming(listener::connections(listener, tls)));
        address
    }

    fn last(&self) -> Option<Caller> {
        self.0.lock().unwrap().take()
    }
}

async fn check(target: Target) -> Result<(), String> {
    let channel = target.connect().await.map_err(|err| format!("{err:?}"))?;
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let checked = HealthClient::new(channel).check(request).await;
    checked.map(drop).map_err(|status| status.to_string())
}

fn pki(folder: &Path) -> Pki {
    let plan = Plan {
        nodes: ["node-1".parse().unwrap()].into(),
        days: 1,
        ..Plan::default()
    };
    Pki::init(folder, plan).unwrap()
}

fn node() -> Identity {
    Identity::Node("node-1".parse().unwrap())
}

fn target(scheme: &str, address: SocketAddr, tls: Option<&Arc<ClientTls>>) -> Target {
    Target {
        url: format!("{scheme}://{address}"),
        meant: Meant::CreditManager,
        tls: tls.cloned(),
        token_file: None,
    }
}

fn client(files: &TlsFiles) -> Arc<ClientTls> {
    Arc::new(ClientTls::client(files).unwrap())
}

#[tokio::test]
async fn a_certificate_says_which_node_it_is_and_only_ours_are_believed() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (pki(folder.path()), pki(other.path()));
    let asked = Asked::default();
    let address = asked.serve(Some(&ours.files(&Identity::CreditManager))).await;

    let anonymous = Arc::new(ClientTls::anonymous(&ours.ca_file()).unwrap());
    check(target("https", address, Some(&anonymous))).await.unwrap();
    assert_eq!(asked.last(), Some(Caller::Anyone));
    check(target("https", address, Some(&client(&ours.files(&node())))))
        .await
        .unwrap();
    assert_eq!(asked.last(), Some(Caller::Node(Some("node-1".parse().unwrap()))));

    // Without TLS nothing is said, and nothing of another authority is believed, by either end.
    check(target("http", address, None)).await.unwrap_err();
    check(target("https", address, Some(&client(&theirs.files(&node())))))
        .await
        .unwrap_err();
    let mixed = TlsFiles {
        ca_file: ours.ca_file(),
        ..theirs.files(&node())
    };
    check(target("https", address, Some(&client(&mixed))))
        .await
        .unwrap_err();
    // A node's certificate is good, and does not make it credit-manager.
    let as_node = asked.serve(Some(&ours.files(&node()))).await;
    let err = check(target("https", as_node, Some(&anonymous)))
        .await
        .unwrap_err();
    assert!(err.contains("another service"), "{err}");
    assert_eq!(asked.last(), None);
}

#[tokio::test]
async fn new_certificates_and_a_new_authority_are_taken_up_while_everything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let pki = pki(folder.path());
    let asked = Asked::default();
    let address = asked.serve(Some(&pki.files(&Identity::CreditManager))).await;
    let tls = client(&pki.files(&node()));
    check(target("https", address, Some(&tls))).await.unwrap();
    let before = std::fs::read_to_string(pki.ca_file()).unwrap();

    pki.rotate(true).unwrap();
    let after = std::fs::read_to_string(pki.ca_file()).unwrap();
    assert_eq!(
        after.matches("BEGIN CERTIFICATE").count(),
        2,
        "the old one is still believed"
    );
    pki.rotate(true).unwrap();
    let after = std::fs::read_to_string(pki.ca_file()).unwrap();
    assert!(after.matches("BEGIN CERTIFICATE").count() == 2 && !after.contains(&before));
    // Whoever believes the newest authority alone is served too, as soon as the server has looked.
    let only_new = folder.path().join("only-new.pem");
    let end = after.find("-----END").unwrap();
    std::fs::write(&only_new, &after[..end + "-----END CERTIFICATE-----\n".len()]).unwrap();
    let strict = Arc::new(ClientTls::anonymous(&only_new).unwrap());
    while check(target("https", address, Some(&strict))).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // So is a client that has been there all the time, by its new certificate.
    while check(target("https", address, Some(&tls))).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Rubbish does not take the place of what works.
    std::fs::write(pki.ca_file(), "rubbish").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    check(target("https", address, Some(&strict))).await.unwrap();
}

#[test]
fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let pki = pki(&folder.path().join("pki"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = pki.ca_file().parent().unwrap().to_owned();
    assert_eq!(mode(&folder), 0o700);
    for file in ["ca-key.pem", "credit-manager.pem", "node-node-1.pem"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    let files = pki.files(&node());
    let wide = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&files.identity_file, wide).unwrap();
    let err = ServerTls::server(&files).unwrap_err();
    assert!(err.to_string().contains("others than its owner"), "{err}");
}

#[tokio::test]
async fn a_token_does_not_leave_the_machine_in_the_open() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    token::write(&file, &random().unwrap()).unwrap();
    for (url, is_refused) in [
        ("http://192.0.2.1:7402", true),
        ("http://example.org:7402", true),
        ("http://localhost.example.org:7402", true),
        ("http://127.0.0.1:7402", false),
        ("http://[::1]:7402", false),
        ("http://localhost:7402", false),
    ] {
        let target = Target {
            url: url.to_owned(),
            meant: Meant::Node,
            tls: None,
            token_file: Some(file.clone()),
        };
        let refused = matches!(target.connect_lazy(), Err(ConnectError::Plaintext(_)));
        assert_eq!(refused, is_refused, "{url}");
    }
}
