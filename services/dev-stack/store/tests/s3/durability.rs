use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use store::Store;
use tokio::io::AsyncWriteExt;

use crate::support::{ACCESS_KEY, BUCKET, Fixture, SECRET_KEY, Server, config, fixture, refusal};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let Fixture { root, server, client } = fixture().await;
    let f = Fixture { root, server, client };
    f.put("small", "s").await;
    f.put("large", vec![7; 100_000]).await;
    let upload = f
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("m")
        .send()
        .await
        .unwrap();
    let Fixture { root, server, .. } = f;
    server.stop().await;

    let server = Server::start(config(root.path())).await;
    let client = server.client(ACCESS_KEY, SECRET_KEY);
    let f = Fixture { root, server, client };
    assert_eq!(f.keys().await, ["large", "small"]);
    assert_eq!(f.get("small").await, b"s");
    assert_eq!(f.get("large").await, vec![7; 100_000]);
    let id = upload.upload_id.unwrap();
    f.client
        .list_parts()
        .bucket(BUCKET)
        .key("m")
        .upload_id(id)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn bytes_whose_object_was_never_committed_are_swept_at_the_start() {
    let f = fixture().await;
    f.put("large", vec![7; 100_000]).await;
    let Fixture { root, server, .. } = f;
    server.stop().await;
    // What a kill leaves between the file and the index: a file that nothing names.
    std::fs::write(
        root.path().join("blobs/0193aaaaaaaa7bbb8ccc000000000000"),
        vec![1; 50_000],
    )
    .unwrap();

    let server = Server::start(config(root.path())).await;
    let client = server.client(ACCESS_KEY, SECRET_KEY);
    let f = Fixture { root, server, client };
    assert_eq!(f.blobs(), 1);
    assert_eq!(f.keys().await, ["large"]);
    assert_eq!(f.get("large").await, vec![7; 100_000]);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_no_object_and_no_bytes() {
    let f = fixture().await;
    let put = f.client.put_object().bucket(BUCKET).key("key");
    let presigning =
        aws_sdk_s3::presigning::PresigningConfig::expires_in(std::time::Duration::from_secs(60)).unwrap();
    let signed = put.presigned(presigning).await.unwrap();
    let target = signed.uri().split_once(&f.server.address.to_string()).unwrap().1;
    let head = format!(
        "PUT {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: 200000\r\n\r\n",
        f.server.address
    );
    let mut stream = tokio::net::TcpStream::connect(f.server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[0; 100_000]).await.unwrap();
    f.until_blobs(1).await;
    drop(stream);
    f.until_blobs(0).await;
    assert!(f.keys().await.is_empty());
}

#[tokio::test]
async fn a_second_store_on_one_root_is_refused() {
    let f = fixture().await;
    let second = Store::open(config(f.root.path()));
    let message = format!("{:#}", anyhow::Error::from(second.err().unwrap()));
    assert!(message.contains("in use by another process"), "{message}");
    let Fixture { root, server, .. } = f;
    server.stop().await;
    Store::open(config(root.path())).unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_objects_and_keeps_the_old_ones() {
    let mount = tempfile::tempdir().unwrap();
    let tmpfs = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(mount.path())
        .status();
    if !tmpfs.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a small file system cannot be mounted here (needs root)");
        return;
    }
    let outcome = tokio::spawn(fill(mount.path().to_owned())).await;
    let unmounted = Command::new("umount").arg(mount.path()).status().unwrap();
    outcome.unwrap();
    assert!(unmounted.success());
}

async fn fill(root: std::path::PathBuf) {
    let server = Server::start(config(&root)).await;
    let client = server.client(ACCESS_KEY, SECRET_KEY);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    let put = |key: String, size| {
        client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(ByteStream::from(vec![1; size]))
            .send()
    };
    put("kept".to_owned(), 1_000_000).await.unwrap();
    let (status, code) = refusal(put("large".to_owned(), 8_000_000).await);
    assert_eq!((status, code.as_str()), (507, "StorageFull"));
    let mut stored = 0;
    for n in 0.. {
        match put(format!("small-{n}"), 16_000).await {
            Ok(_) => stored += 1,
            refused => {
                assert!(refusal(refused).0 >= 500);
                break;
            }
        }
    }
    let listed = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(
        listed.contents().len(),
        stored + 1,
        "what was refused is not there, what was not refused is"
    );
    let kept = client
        .get_object()
        .bucket(BUCKET)
        .key("kept")
        .send()
        .await
        .unwrap();
    assert!(kept.body.collect().await.unwrap().to_vec() == vec![1; 1_000_000]);
    client
        .delete_object()
        .bucket(BUCKET)
        .key("kept")
        .send()
        .await
        .unwrap();
    server.stop().await;
}
