//! Who may do what on a running stack: tokens, users' keys to the store, certificates, and where secrets are not.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use access::client::Meant;
use access::matrix::{MATRIX, Row};
use access::{Channel, Role, Target};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::presigning::PresigningConfig;
use common::{DEADLINE, Stack, base_image, client, s3};
use dev_stack::{Endpoints, S3Credentials};
use prost::Message as _;
use proto::container::v1 as container;
use proto::container::v1::container_service_client::ContainerServiceClient;
use proto::credit::v1 as credit;
use service_kit::Secret;
use tonic::Code;
use tonic::body::Body;
use tower::ServiceExt as _;

const ROLES: [Role; 5] = Role::ALL;

struct Door<'a> {
    stack: &'a Stack,
    endpoints: Endpoints,
}

impl<'a> Door<'a> {
    fn of(stack: &'a Stack) -> Self {
        let endpoints = stack.endpoints();
        Self { stack, endpoints }
    }

    /// Where the token of a role is; `None` for whoever has none.
    fn token(&self, role: Role) -> Option<PathBuf> {
        match role {
            Role::Operator => Some(self.endpoints.operator_token_file.clone()),
            Role::Auditor => Some(self.stack.path("auditor.token")),
            Role::User => Some(self.stack.path("alice.token")),
            Role::Node => Some(self.stack.path("credit-manager/node-token")),
            Role::Anyone => None,
        }
    }

    async fn channel(&self, service: &str, token_file: Option<PathBuf>) -> Channel {
        let meant = if service.contains("container") {
            Meant::Node
        } else {
            Meant::CreditManager
        };
        let target = Target {
            token_file,
            ..self.endpoints.target(meant).unwrap()
        };
        target.connect().await.unwrap()
    }

    /// The status in the head of the answer; `Ok` where an answer begins.
    async fn ask(&self, row: &Row, role: Role, message: &[u8]) -> Code {
        let channel = self.channel(row.service, self.token(role)).await;
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let frame = [&[0], &length[..], message].concat();
        let uri = format!("http://service{}", row.path);
        let request = http::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(http_body_util::Full::from(frame)))
            .unwrap();
        let response = channel.oneshot(request).await.unwrap();
        let status = response.headers().get("grpc-status");
        status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
    }
}

fn ours() -> impl Iterator<Item = &'static Row> {
    MATRIX.iter().filter(|row| row.service.starts_with("gridfaas."))
}

/// A request for something of bob's; `None` for methods that name nothing and narrow their answer instead.
fn of_bobs(row: &Row) -> Option<Vec<u8>> {
    let (bob, function) = ("bob".to_owned(), "bobs".to_owned());
    Some(match row.method {
        "GetUser" => credit::GetUserRequest { name: bob }.encode_to_vec(),
        "CreateFunction" => credit::CreateFunctionRequest {
            name: "new".to_owned(),
            user: bob,
        }
        .encode_to_vec(),
        "DeleteFunction" => credit::DeleteFunctionRequest { name: function }.encode_to_vec(),
        "ListFunctions" => credit::ListFunctionsRequest { user: bob }.encode_to_vec(),
        "ListTransfers" => credit::ListTransfersRequest { user: bob, limit: 0 }.encode_to_vec(),
        "ListSessions" => credit::ListSessionsRequest {
            user: bob,
            ..Default::default()
        }
        .encode_to_vec(),
        "Quote" => credit::QuoteRequest {
            function,
            input_bytes: 1,
        }
        .encode_to_vec(),
        "Withdraw" => credit::WithdrawRequest {
            withdrawal_id: uuid::Uuid::now_v7().to_string(),
            user: bob,
            address: "S6ZQTKvBgkzPFUAN5WeR9MGnDcQGKBXZQ4".to_owned(),
            amount_halfords: 0,
        }
        .encode_to_vec(),
        "GetWithdrawal" => credit::GetWithdrawalRequest {
            withdrawal_id: uuid::Uuid::now_v7().to_string(),
        }
        .encode_to_vec(),
        "ListWithdrawals" => credit::ListWithdrawalsRequest { user: bob, limit: 0 }.encode_to_vec(),
        "ReadTransfers" => credit::ReadTransfersRequest {
            user: bob,
            ..Default::default()
        }
        .encode_to_vec(),
        "GetStatement" => credit::GetStatementRequest {
            user: bob,
            ..Default::default()
        }
        .encode_to_vec(),
        "ListTokens" => credit::ListTokensRequest { user: bob }.encode_to_vec(),
        "RevokeToken" => credit::RevokeTokenRequest {
            token_id: "0123456789ab".to_owned(),
        }
        .encode_to_vec(),
        "GetS3Credentials" => credit::GetS3CredentialsRequest {
            user: bob,
            renew: false,
        }
        .encode_to_vec(),
        "ListTasks" => container::ListTasksRequest {
            function,
            ..Default::default()
        }
        .encode_to_vec(),
        "ReadLog" => container::ReadLogRequest {
            function,
            object_key: "task.txt".to_owned(),
            follow: false,
        }
        .encode_to_vec(),
        "Invoke" => container::InvokeRequest {
            function,
            ..Default::default()
        }
        .encode_to_vec(),
        "ListQueues" => container::ListQueuesRequest { function }.encode_to_vec(),
        "GetReceipt" => container::GetReceiptRequest {
            function,
            object_key: "task.txt".to_owned(),
        }
        .encode_to_vec(),
        "Notify" => container::NotifyRequest { function }.encode_to_vec(),
        "CancelTask" => container::CancelTaskRequest {
            function,
            object_key: "task.txt".to_owned(),
        }
        .encode_to_vec(),
        "ReserveCapacity" => container::ReserveCapacityRequest {
            user: bob,
            key: "asked".to_owned(),
            memory_mib: 1,
            ttl_ms: 1000,
            ..Default::default()
        }
        .encode_to_vec(),
        "ReleaseReservation" => container::ReleaseReservationRequest {
            reservation_id: "01a20438-0127-760f-ba05-fa87a3a2e2ad".to_owned(),
        }
        .encode_to_vec(),
        "ListContainers" | "ListReservations" => return None,
        method => panic!("say how {method} asks for another's"),
    })
}

/// Alice and bob, each with a function that has run a task, and tokens for alice and an auditor.
fn set_up(stack: &Stack) {
    for name in ["alice", "bob"] {
        stack.text(&["user", "add", name]);
        stack.text(&["user", "fund", name, "5", "--mine", "--wait"]);
        stack.function(
            &format!("{name}s"),
            name,
            "echo of $GRIDFAAS_TASK >\"$2/result\"\n",
        );
        let task = stack.file("task.txt", "1");
        stack.text(&["submit", &format!("{name}s"), &task, "--wait"]);
    }
    let to = |name: &str| stack.path(name).to_str().unwrap().to_owned();
    stack.text(&[
        "token",
        "create",
        "user",
        "--user",
        "alice",
        "--to",
        &to("alice.token"),
    ]);
    stack.text(&[
        "token",
        "create",
        "user",
        "--user",
        "bob",
        "--to",
        &to("bob.token"),
    ]);
    stack.text(&["token", "create", "auditor", "--to", &to("auditor.token")]);
    for user in ["alice", "bob"] {
        let file = to(&format!("{user}.s3"));
        stack.text(&["user", "s3-credentials", user, "--to", &file]);
    }
}

fn as_user(stack: &Stack, name: &str) -> Command {
    let mut command = stack.gridfaas();
    command.env("GRIDFAAS_TOKEN_FILE", stack.path(&format!("{name}.token")));
    command.env("GRIDFAAS_S3_CREDENTIALS_FILE", stack.path(&format!("{name}.s3")));
    command
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

#[test]
fn each_role_does_what_the_matrix_says_and_a_user_only_with_its_own() {
    let Some(stack) = Stack::start() else { return };
    set_up(&stack);
    let door = Door::of(&stack);
    let runtime = runtime();
    runtime.block_on(async {
        for row in ours() {
            for role in ROLES {
                let code = door.ask(row, role, &[]).await;
                let refused = matches!(code, Code::PermissionDenied | Code::Unauthenticated);
                assert_eq!(
                    refused,
                    row.scope(role).is_none(),
                    "{role} at {}: {code:?}",
                    row.path
                );
            }
        }
        for row in ours().filter(|row| row.own.contains(&Role::User)) {
            let Some(message) = of_bobs(row) else { continue };
            let code = door.ask(row, Role::User, &message).await;
            let is_right = matches!(code, Code::PermissionDenied | Code::NotFound);
            assert!(is_right, "alice at bob's {}: {code:?}", row.path);
            if !matches!(
                row.method,
                "GetWithdrawal"
                    | "RevokeToken"
                    | "CreateFunction"
                    | "DeleteFunction"
                    | "Withdraw"
                    | "CancelTask"
                    | "ReleaseReservation"
            ) {
                let code = door.ask(row, Role::Operator, &message).await;
                assert_eq!(code, Code::Ok, "the request for bob's {} is no good", row.path);
            }
        }
    });

    // What names nothing shows a user its own.
    let alice = |arguments: &[&str]| succeeds(as_user(&stack, "alice").args(arguments));
    for (arguments, own, others) in [
        (&["function", "list"][..], "alices", "bobs"),
        (&["ps"], "alices", "bobs"),
        (&["node", "containers"], "alices", "bobs"),
        (&["token", "list"], "alice", "bob"),
        (&["statement", "alice"], "deposit", "bob"),
        (&["ledger", "show"], "alice", "bob"),
    ] {
        let text = alice(arguments);
        assert!(
            text.contains(own) && !text.contains(others),
            "{arguments:?}: {text}"
        );
    }
    assert!(alice(&["balance", "alice"]).contains("GRC"));
    for arguments in [
        &["balance", "bob"][..],
        &["user", "set", "alice", "--debt-limit", "1000"],
        &["function", "set", "alices", "--max-spend", "off"],
        &["config", "set", "scaler.policy", "guardian"],
        &["ledger", "backup", "copy.db"],
        &["audit"],
    ] {
        let text = fails(as_user(&stack, "alice").args(arguments));
        assert!(text.starts_with("error: "), "{arguments:?}: {text}");
    }
    // All the way from a file to a charge, with nothing but her own.
    let task = stack.file("again.txt", "1");
    alice(&["submit", "alices", &task, "--wait"]);
    assert!(alice(&["results", "alices", "again.txt"]).contains("result"));
    // A function is reached from its first moment.
    let script = stack.file("new.sh", "echo hello\n");
    let image = base_image();
    alice(&[
        "function", "create", "newborn", "--user", "alice", "--image", &image, "--script", &script,
    ]);
    assert_eq!(alice(&["invoke", "newborn", &task]), "hello\n");
    let text = fails(as_user(&stack, "alice").args(["invoke", "bobs", &task]));
    assert!(text.contains("belongs to another user"), "{text}");

    let mut nobody = stack.gridfaas();
    nobody.args(["--credit-url", &door.endpoints.credit_url, "balance", "alice"]);
    assert!(
        fails(&mut nobody).contains("\nhint: "),
        "the operator's token is for its own stack"
    );

    // A revoked token is refused by both services; at the node as soon as its answer is too old.
    let tokens = stack.json(&["token", "list", "--user", "alice"]);
    stack.text(&["token", "revoke", tokens[0]["id"].as_str().unwrap()]);
    assert!(fails(as_user(&stack, "alice").args(["balance", "alice"])).contains("revoked"));
    let started = Instant::now();
    while as_user(&stack, "alice")
        .args(["node", "containers"])
        .output()
        .unwrap()
        .status
        .success()
    {
        assert!(
            started.elapsed() < DEADLINE,
            "the node still lets a revoked token in"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    eprintln!("revoked at the node after {:?}", started.elapsed());
    succeeds(as_user(&stack, "bob").args(["node", "containers"]));
}

#[test]
fn running_work_is_private_and_finished_work_public_without_names() {
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
    stack.function(
        "secret-work",
        "alice",
        "until [ -e /staging/stop ] || [ -s \"$1\" ]; do sleep 0.1; done\n",
    );
    let running = stack.file("wait.txt", "");
    stack.text(&["submit", "secret-work", &running]);
    stack.until("a running task", &["ps", "--live"], |tasks| {
        tasks["tasks"][0]["state"] == "running"
    });

    let runtime = runtime();
    let ask = |stack: &Stack| {
        runtime.block_on(async {
            let door = Door::of(stack);
            let channel = door.channel("container", None).await;
            let mut node = ContainerServiceClient::new(channel);
            let tasks = node.list_tasks(container::ListTasksRequest::default()).await;
            assert_eq!(tasks.unwrap_err().code(), Code::Unauthenticated);
            let records = node.list_records(container::ListRecordsRequest::default()).await;
            records.unwrap().into_inner().records
        })
    };
    assert_eq!(ask(&stack), []);
    let done = stack.file("done.txt", "1");
    let finished = stack.file("quick.sh", "true\n");
    let image = base_image();
    stack.text(&[
        "function",
        "create",
        "quick-work",
        "--user",
        "alice",
        "--image",
        &image,
        "--script",
        &finished,
    ]);
    stack.text(&["submit", "quick-work", &done, "--wait"]);
    let records = ask(&stack);
    assert_eq!(records.len(), 1);
    assert!(records[0].succeeded && records[0].cpu_time_us > 0, "{records:?}");
    let shown = format!("{records:?}");
    for name in ["alice", "quick-work", "done.txt"] {
        assert!(!shown.contains(name), "{shown}");
    }

    let token = stack.path("credit-manager/operator-token");
    let mode = fs::metadata(&token).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    let before = fs::read_to_string(&token).unwrap();
    stack.crash_and_restart();
    assert_ne!(
        fs::read_to_string(&token).unwrap(),
        before,
        "it is new at every start"
    );
    stack.text(&["user", "list"]);
}

#[test]
fn a_users_key_opens_the_buckets_of_its_own_functions() {
    let Some(stack) = Stack::start() else { return };
    set_up(&stack);
    let url = stack.endpoints().s3_url;
    let key = |name: &str| S3Credentials::read(&stack.path(&format!("{name}.s3"))).unwrap();
    let alice = client(&url, &key("alice"));
    let bob = client(&url, &key("bob"));
    let operator = s3(stack.folder()).unwrap();
    let runtime = runtime();
    let denied = Some("AccessDenied".to_owned());
    runtime.block_on(async {
        let buckets = async |client: &aws_sdk_s3::Client| {
            let listed = client.list_buckets().send().await.unwrap();
            let names = listed
                .buckets()
                .iter()
                .map(|bucket| bucket.name().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(buckets(&alice).await, ["alices"]);
        assert_eq!(buckets(&bob).await, ["bobs"]);
        assert_eq!(buckets(&operator).await, ["alices", "bobs"]);

        let get = async |client: &aws_sdk_s3::Client, bucket: &str| {
            let got = client
                .get_object()
                .bucket(bucket)
                .key("results/task.txt/result")
                .send()
                .await;
            got.map(drop).map_err(|err| err.code().map(str::to_owned))
        };
        assert_eq!(get(&alice, "alices").await, Ok(()));
        assert_eq!(get(&alice, "bobs").await, Err(denied.clone()));
        assert_eq!(get(&operator, "bobs").await, Ok(()));
        let put = alice.put_object().bucket("bobs").key("input/x").send().await;
        assert_eq!(put.unwrap_err().code(), Some("AccessDenied"));
        let copy = alice
            .copy_object()
            .bucket("alices")
            .key("x")
            .copy_source("bobs/results/task.txt/result");
        assert_eq!(copy.send().await.unwrap_err().code(), Some("AccessDenied"));
        let made = alice.create_bucket().bucket("nobodys").send().await;
        assert_eq!(made.unwrap_err().code(), Some("AccessDenied"));

        let minute = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
        let signed = alice.get_object().bucket("alices").key("results/task.txt/result");
        let signed = signed.presigned(minute.clone()).await.unwrap();
        let fetched = Command::new("curl").args(["-sf", signed.uri()]).output().unwrap();
        assert_eq!(String::from_utf8(fetched.stdout).unwrap(), "of task.txt\n");
        let signed = alice.get_object().bucket("bobs").key("results/task.txt/result");
        let signed = signed.presigned(minute).await.unwrap();
        let fetched = Command::new("curl").args(["-s", signed.uri()]).output().unwrap();
        assert!(
            String::from_utf8(fetched.stdout)
                .unwrap()
                .contains("AccessDenied")
        );
    });

    // A function that was just made is open at once, and a key that was made anew shuts out the old one.
    let script = stack.file("later.sh", "true\n");
    let mut create = as_user(&stack, "alice");
    succeeds(create.args([
        "function", "create", "later", "--user", "alice", "--script", &script,
    ]));
    let file = stack.path("alice.s3").to_str().unwrap().to_owned();
    succeeds(as_user(&stack, "alice").args(["user", "s3-credentials", "alice", "--to", &file, "--renew"]));
    assert_ne!(key("alice").access_key, "gf-alice-1");
    let started = Instant::now();
    let old = async || {
        alice
            .get_object()
            .bucket("alices")
            .key("results/task.txt/result")
            .send()
            .await
    };
    while runtime.block_on(old()).is_ok() {
        assert!(started.elapsed() < DEADLINE, "the old key still opens");
        std::thread::sleep(Duration::from_millis(50));
    }
    let new = client(&url, &key("alice"));
    runtime
        .block_on(new.list_objects_v2().bucket("later").send())
        .unwrap();
}

#[test]
fn with_certificates_nothing_is_said_in_the_open_and_rotation_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pki = folder.path().join("pki");
    let pki = pki.to_str().unwrap();
    let Some(stack) = Stack::start_with(&["--pki", pki]) else {
        return;
    };
    set_up(&stack);
    let endpoints = stack.endpoints();
    assert!(endpoints.credit_url.starts_with("https://"), "{endpoints:?}");
    assert!(!stack.path("credit-manager/node-token").exists());
    for url in [&endpoints.credit_url, &endpoints.container_url] {
        let plain = url.replace("https://", "http://");
        stack.error(&["--credit-url", &plain, "--container-url", &plain, "ps"]);
        // Not even by mistake: what answers in the open answers nothing.
        let address = plain.trim_start_matches("http://");
        let sent = format!(
            "exec 3<>/dev/tcp/{}; printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' >&3; cat <&3",
            address.replace(':', "/")
        );
        let heard = Command::new("bash").args(["-c", &sent]).output().unwrap().stdout;
        assert!(!heard.windows(4).any(|part| part == b"grpc"), "{heard:?}");
    }
    stack.text(&["pki", "rotate", pki, "--ca"]);
    stack.text(&["pki", "rotate", pki, "--ca"]);
    let task = stack.file("after.txt", "1");
    let started = Instant::now();
    while !stack.run(&["submit", "alices", &task, "--wait"]).status.success() {
        assert!(started.elapsed() < DEADLINE, "new certificates are not taken up");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(stack.log().contains("certificates read again"));
}

/// Every secret of a stack, by where it is.
fn secrets(stack: &Stack) -> Vec<(PathBuf, String)> {
    let first_line = |path: PathBuf| {
        let secret = Secret::read(&path).unwrap().expose().to_owned();
        (path, secret)
    };
    let mut secrets: Vec<(PathBuf, String)> = [
        "credit-manager/operator-token",
        "credit-manager/node-token",
        "secrets/node-s3-secret",
        "secrets/chain-password",
        "secrets/s3-master-key",
        "alice.token",
        "bob.token",
        "auditor.token",
    ]
    .into_iter()
    .map(|name| first_line(stack.path(name)))
    .collect();
    for name in ["secrets/s3-credentials", "alice.s3", "bob.s3"] {
        let key = S3Credentials::read(&stack.path(name)).unwrap();
        secrets.push((stack.path(name), key.secret_key.expose().to_owned()));
    }
    let dashboard = stack.endpoints().dashboard_url.unwrap();
    let key = dashboard.split("key=").nth(1).unwrap();
    secrets.push((stack.path("endpoints.json"), key.to_owned()));
    secrets
}

#[test]
fn secrets_are_in_their_files_and_nowhere_else() {
    let Some(stack) = Stack::start_with(&["--verbose"]) else {
        return;
    };
    set_up(&stack);
    fails(as_user(&stack, "alice").args(["balance", "bob"]));
    let secrets = secrets(&stack);
    let find = |place: &Path, text: &[u8]| {
        for (file, secret) in &secrets {
            let found = text.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(
                !found || file == place,
                "the secret of {} is in {}",
                file.display(),
                place.display()
            );
        }
    };
    find(Path::new("up.log"), stack.log().as_bytes());
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            // Processes come and go.
            if let Ok(text) = fs::read(process.path().join(file)) {
                find(&process.path().join(file), &text);
            }
        }
    }
    // Of tokens only their hashes are kept.
    find(
        Path::new("access.json"),
        &fs::read(stack.path("credit-manager/access.json")).unwrap(),
    );
    let endpoints = stack.path("endpoints.json");
    find(&endpoints, &fs::read(&endpoints).unwrap());
    // Whoever opened a file of secrets to others is told, not served.
    let wide = fs::Permissions::from_mode(0o644);
    fs::set_permissions(stack.path("alice.token"), wide).unwrap();
    let text = fails(as_user(&stack, "alice").args(["balance", "alice"]));
    assert!(text.contains("hint: chmod 600"), "{text}");
    find(Path::new("the error"), text.as_bytes());
}
