//! The example guests, from their committed builds, installed and called through the front door.

use std::{fmt::Write as _, sync::OnceLock};

use functions::FunctionsSettings;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shunt_testkit::{repo_root, sample_picture};

use crate::yard::{Yard, guest, interpreters, send};

async fn yard() -> Yard {
    Yard::start(FunctionsSettings::default()).await
}

/// Is the interpreter of this language there? Where everything is to be tested it must be.
fn interprets(language: &str) -> bool {
    static READY: OnceLock<()> = OnceLock::new();
    if interpreters().join(format!("{language}.wasm")).is_file() {
        READY.get_or_init(|| drop(functions::compile_interpreters(&interpreters()).unwrap()));
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "the interpreter for {language} is missing: scripts/setup functions"
    );
    println!("passed over: there is no interpreter for {language}");
    false
}

/// The sample pictures that are there, by their file names.
fn pictures(names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let found = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::fs::read(sample_picture(name)?).unwrap())));
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        println!("passed over: there are no sample pictures");
    }
    found
}

#[test]
fn each_committed_build_has_the_digest_that_is_written_down() {
    let folder = repo_root().join("functions");
    let digests = std::fs::read_to_string(folder.join("digests.txt")).unwrap();
    let mut named = Vec::new();
    for line in digests.lines() {
        let (expected, file) = line.split_once("  ").unwrap();
        let digest = Sha256::digest(std::fs::read(folder.join(file)).unwrap());
        let found = digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        assert_eq!(found, expected, "{file}: functions/build writes both");
        named.push(folder.join(file));
    }
    let builds = std::fs::read_dir(folder.join("builds")).unwrap().map(|file| file.unwrap().path());
    let unnamed: Vec<_> = builds.filter(|file| !named.contains(file)).collect();
    assert!(unnamed.is_empty() && named.len() >= 7, "without a digest: {unnamed:?}");
}

#[tokio::test]
async fn what_a_file_is_is_found_by_looking_at_it() {
    let yard = yard().await;
    for (name, kind) in [
        ("echo", "function"),
        ("hello-http", "http"),
        ("grayscale-stdio", "wasi-p1"),
        ("wordcount", "wasi-p1"),
    ] {
        let entry =
            yard.install(&format!("a-{name}"), &Value::Null, guest(&format!("builds/{name}.wasm"))).await;
        assert_eq!(entry["kind"], kind, "{entry}");
        assert_eq!(entry["grants"]["publish"], json!([]), "{entry}");
    }
}

#[tokio::test]
async fn average_gives_what_it_gave_on_edgefaas() {
    let yard = yard().await;
    yard.install("average", &Value::Null, guest("builds/average.wasm")).await;
    for (numbers, mean) in [("0,1,1", "0.666666666667"), ("4, 6", "5.0"), ("-1", "-1.0")] {
        let answer = yard.post("/average", numbers).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, mean));
    }
    let refused = yard.post("/average", "1,two").await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("\\\"two\\\" is not a number"), "{}", refused.text());

    if interprets("python") {
        let created = yard.post("/mgmt/average", guest("average/average.py")).await;
        assert_eq!(created.text().trim_end(), "average.py has been created");
        for (numbers, mean) in [("0,1,1", "0.666666666667"), ("4, 6", "5.0")] {
            let answer = yard.post("/average", numbers).await;
            assert_eq!((answer.status, answer.text().trim_end()), (200, mean));
        }
    }
}

#[tokio::test]
async fn a_picture_becomes_grey_as_by_native_code_to_the_pixel() {
    let yard = yard().await;
    yard.install("grayscale", &Value::Null, guest("builds/grayscale.wasm")).await;
    yard.install("stdio", &Value::Null, guest("builds/grayscale-stdio.wasm")).await;
    // What packs the pixels may be of another version here: packed again by one and the same, they tell.
    let pixels = |file: &[u8]| grayscale::grey(file).unwrap().0;
    for (name, file) in pictures(&["rocket.jpg", "face.jpg", "chelsea.png"]) {
        let (grey, kind) = grayscale::grey(&file).unwrap();
        let expected = pixels(&grey);
        let answer = yard.post("/grayscale", file.clone()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{name}: {}", answer.text());
        assert!(pixels(&answer.body) == expected, "{name}: another picture than native code's");
        let answer = yard.post("/stdio", file).await;
        assert!(pixels(&answer.body) == expected, "{name}: another picture from the program");
    }
}

/// Two pixels: red, white; and the same in a second picture with a table of its own.
const GIF: &[u8] = b"GIF89a\x02\x00\x01\x00\x80\x00\x00\xff\x00\x00\xff\xff\xff\
    \x21\xf9\x04\x01\x0a\x00\x00\x00\x2c\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\x02\x44\x0a\x00\
    \x2c\x00\x00\x00\x00\x02\x00\x01\x00\x80\x00\xff\x00\x00\x00\xff\x02\x02\x44\x0a\x00\x3b";

#[tokio::test]
async fn a_gif_stays_a_gif_with_all_its_pictures() {
    let yard = yard().await;
    yard.install("grayscale", &Value::Null, guest("builds/grayscale.wasm")).await;
    let answer = yard.post("/grayscale", GIF).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "image/gif"));
    let mut expected = GIF.to_vec();
    expected[13..19].copy_from_slice(&[77, 77, 77, 255, 255, 255]);
    let second = expected.len() - 6 - 6;
    expected[second..second + 6].copy_from_slice(&[149, 149, 149, 29, 29, 29]);
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn what_is_no_picture_is_refused_in_words_and_the_function_goes_on() {
    let yard = yard().await;
    yard.install("grayscale", &Value::Null, guest("builds/grayscale.wasm")).await;
    yard.install("stdio", &Value::Null, guest("builds/grayscale-stdio.wasm")).await;
    let mut files = vec![
        (b"no picture".to_vec(), "neither a JPEG nor a PNG nor a GIF"),
        (GIF[..30].to_vec(), "cut short"),
    ];
    // A PNG file that says that it has 4,000,000,000 pixels.
    let huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\0\0\0\0\xee\x6b\x08\0\0\0\0\x9f\x3c\x4f\x35".to_vec();
    files.push((huge, "PNG"));
    for (_, file) in pictures(&["rocket.jpg"]) {
        files.push((file[..200].to_vec(), "JPEG"));
    }
    for (file, words) in files {
        let refused = yard.post("/grayscale", file.clone()).await;
        assert!(
            refused.status == 422 && refused.text().contains(words),
            "{} {}",
            refused.status,
            refused.text()
        );
        let failed = yard.post("/stdio", file).await;
        assert!(failed.status == 500 && failed.text().contains(words), "{} {}", failed.status, failed.text());
    }
    assert_eq!(yard.post("/grayscale", GIF).await.status, 200);
}

#[tokio::test]
async fn a_program_in_c_counts_words() {
    let yard = yard().await;
    yard.install("wordcount", &Value::Null, guest("builds/wordcount.wasm")).await;
    for (text, counts) in [("one two\nthree\n", "2 3 14\n"), ("", "0 0 0\n"), ("no end", "0 2 6\n")] {
        let answer = yard.post("/wordcount", text).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, counts));
    }
    let large = vec![b'a'; 3 << 20];
    assert_eq!(yard.post("/wordcount", large).await.text(), "0 1 3145728\n");
}

#[tokio::test]
async fn a_function_that_speaks_http_says_its_own_status() {
    let yard = yard().await;
    yard.install("hello", &Value::Null, guest("builds/hello-http.wasm")).await;
    let request = yard.request(Method::GET, "/hello/some/path?x=1").header("User-Agent", "tester");
    let answer = send(request).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; charset=utf-8"));
    let text = answer.text();
    assert!(text.starts_with("Hello, tester, at ") && text.ends_with("/some/path?x=1!\n"), "{text}");
    assert_eq!(send(yard.request(Method::DELETE, "/hello")).await.status, 405);
}

#[tokio::test]
async fn classify_tells_what_pictures_show_with_a_model_that_it_was_granted() {
    let yard = yard().await;
    yard.install("classify", &Value::Null, guest("builds/classify.wasm")).await;
    let photos = pictures(&["parrot.jpg", "hot_dog.jpg", "coffee.png"]);
    let Some((_, first)) = photos.first() else { return };
    let refused = yard.post("/classify", first.clone()).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("grant this function one of the models"), "{}", refused.text());

    let grants = json!({"models": ["efficientnet-lite0"]});
    let entry = yard.put("classify", &grants, guest("builds/classify.wasm")).await;
    assert_eq!(entry.json()["grants"]["models"], grants["models"]);
    for ((name, file), label) in photos.iter().zip(["macaw", "hotdog", "espresso"]) {
        let answer = yard.post("/classify", file.clone()).await;
        let text = answer.text();
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, "text/plain; charset=utf-8"),
            "{text}"
        );
        let (class, rest) = text.split_once(" is detected with ").expect(&text);
        let of_255: u8 = rest.strip_suffix("/255 confidence").expect(&text).parse().unwrap();
        assert!(class.starts_with(label), "{name}: {text}");
        assert!(of_255 > 50, "{name}: {text}");
    }
    // Not granted, though it is in the catalog; and not in the catalog of this function.
    for model in ["mobilenet-v1-quant", "blazeface-full-range"] {
        let refused = yard.post(&format!("/classify?model={model}"), first.clone()).await;
        assert!(refused.status == 422 && refused.text().contains(model), "{}", refused.text());
    }
}

#[tokio::test]
async fn averages_over_time_are_kept_in_the_granted_bucket_also_over_a_restart() {
    if !interprets("javascript") {
        return;
    }
    let yard = yard().await;
    let grants = json!({"state": "averages"});
    let text = || guest("averages-over-time/averages-over-time.js");
    let entry = yard.install("averages", &grants, text()).await;
    assert_eq!(
        (&entry["kind"], &entry["grants"]["state"]),
        (&json!("javascript"), &json!("averages")),
        "{entry}"
    );
    let answer = yard.post("/averages", "4,6").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json(), json!({"mean": 5, "of all": 5, "calls": 1}));

    let folder = yard.end().await;
    let yard = Yard::start_with(FunctionsSettings::default(), folder, |_| ()).await;
    let answer = yard.post("/averages", "2").await.json();
    assert_eq!(answer, json!({"mean": 2, "of all": 4, "calls": 2}));
    // Calls at the same time do not lose each other's numbers.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let request = yard.request(Method::POST, "/averages").body("4");
        waiting.spawn(async move { send(request).await.status });
    }
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(yard.get("/averages").await.json(), json!({"mean": null, "of all": 4, "calls": 22}));
    let refused = yard.post("/averages", "one").await;
    assert!(refused.status >= 400 && refused.text().contains("numbers"), "{}", refused.text());

    // Without the grant there is no state.
    yard.install("averages", &Value::Null, text()).await;
    let denied = yard.post("/averages", "1").await;
    assert!(denied.status >= 400 && denied.text().contains("averages"), "{}", denied.text());
}
