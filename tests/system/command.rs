//! The command itself: exit codes and messages.

use std::net::{Ipv4Addr, TcpListener};

use shunt_testkit::{repo_root, sample_picture, shared_dir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::chain::{shunt, shunt_in};

#[tokio::test]
async fn a_wrong_command_line_ends_with_2() {
    for arguments in [&["up", "--for", "soon"][..], &["nonsense"], &["twin", "set", "camera"]] {
        let printed = shunt(arguments).await;
        assert_eq!(printed.code, Some(2), "{arguments:?}: {printed:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    // Whoever holds it, it is held.
    let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, 8883));
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let printed =
        shunt(&["up", "--source", "/dev/null", "--for", "1s", "--folder", run.to_str().unwrap()]).await;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(printed.err.contains("port 8883, where bus listens"), "{printed:?}");
}

#[tokio::test]
async fn without_a_chain_a_command_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let printed = shunt(&["twin", "get", "camera", "--folder", folder.path().to_str().unwrap()]).await;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(printed.err.contains("shunt up"), "{printed:?}");
}

#[tokio::test]
async fn a_file_that_is_no_picture_is_refused_by_name() {
    let printed = shunt(&["emotion", "Cargo.toml"]).await;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(printed.err.contains("Cargo.toml"), "{printed:?}");
}

#[tokio::test]
async fn the_emotion_command_draws_what_it_found() {
    let astronaut = || repo_root().join("modules/emotion/tests/data/astronaut.jpg");
    let (picture, people) =
        sample_picture("face.jpg").map_or_else(|| (astronaut(), 1), |picture| (picture, 4));
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("drawn.png");
    let printed =
        shunt(&["emotion", picture.to_str().unwrap(), "--json", "--out", drawn.to_str().unwrap()]).await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let answer: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(answer["faces"].as_array().unwrap().len(), people, "{answer}");
    assert!(std::fs::read(&drawn).unwrap().starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn the_accuracy_on_labelled_faces_is_reported() {
    let Some(faces) = shared_dir().map(|shared| shared.join("models/checks/fer")) else {
        println!("Skipped: the labelled faces are not here.");
        return;
    };
    let printed = shunt(&["models", "check", faces.to_str().unwrap(), "--json"]).await;
    let answer: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!((&answer["faces"], &answer["right"]), (&184.into(), &136.into()), "{answer}");
}

#[tokio::test]
async fn the_models_of_the_demo_are_there() {
    for model in ["blazeface-full-range", "ferplus-small"] {
        let printed = shunt(&["models", "where", model]).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        assert!(printed.out.contains(repo_root().join("models").to_str().unwrap()), "{printed:?}");
    }
    let unknown = shunt(&["models", "where", "gpt"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.err.contains("ferplus-small"), "it names those there are: {unknown:?}");
}

#[tokio::test]
async fn a_fetched_model_with_another_digest_is_not_used() {
    let server = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/version-RFB-320.onnx", server.local_addr().unwrap());
    let catalog = std::fs::read_to_string(repo_root().join("models/catalog.toml")).unwrap();
    let (before, rest) = catalog.split_once("[models.ultraface.source]").unwrap();
    let (_, after) = rest.split_once("[models.ultraface.input]").unwrap();
    let catalog = format!(
        "{before}[models.ultraface.source]\nkind = \"url\"\nurl = \"{url}\"\n\n[models.ultraface.input]{after}"
    );
    // Under another name: the repository's own folder is looked into as well, and it may have been fetched.
    let catalog = catalog.replace("face/version-RFB-320.onnx", "face/fetched.onnx");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("catalog.toml"), catalog).unwrap();
    let answer = async {
        let (mut client, _) = server.accept().await.unwrap();
        assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nwrong";
        client.write_all(answer).await.unwrap();
    };
    let models = folder.path().to_str().unwrap();
    let environment = [("SHUNT_MODELS_DIR", models), ("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")];
    let fetch = ["models", "fetch", "ultraface"];
    let (printed, ()) = tokio::join!(shunt_in(&environment, &fetch), answer);
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(
        printed.err.contains("the catalog says 34cd7e60") && printed.err.contains("not used"),
        "{printed:?}"
    );
    assert!(!folder.path().join("face").exists());
}
