use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::support::{LIMIT, call, field, start, workload};

const VERSION: &str = "?api-version=2022-08-03";

#[tokio::test]
async fn the_environment_is_what_edge_agent_gives() -> anyhow::Result<()> {
    let stand = start(&[]).await?;
    stand.deploy(&crate::support::manifest(&["relay"], &json!({})))?;
    let environment = stand.module_environment("relay");
    let port = stand.mqtt().port();
    assert_eq!(environment["IOTEDGE_GATEWAYHOSTNAME"], format!("localhost:{port}"));
    assert_eq!(
        environment["IOTEDGE_WORKLOADURI"],
        format!("unix://{}", stand.workload_socket("relay").display())
    );
    for (name, value) in [
        ("IOTEDGE_IOTHUBHOSTNAME", "shunt-sim.azure-devices.net"),
        ("IOTEDGE_DEVICEID", "shunt-device"),
        ("IOTEDGE_MODULEID", "relay"),
        ("IOTEDGE_APIVERSION", "2022-08-03"),
        ("IOTEDGE_AUTHSCHEME", "sasToken"),
        ("RuntimeLogLevel", "info"),
        ("COLOUR", "red"),
        ("COUNT", "3"),
    ] {
        assert_eq!(environment[name], value, "{name}");
    }
    assert!(!environment["IOTEDGE_MODULEGENERATIONID"].is_empty());
    assert!(stand.module_environment("ghost").is_empty());
    Ok(())
}

#[tokio::test]
async fn sign_signs_with_the_modules_primary_key() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let key = BASE64.decode(field(&stand.module_connection_string("relay"), "SharedAccessKey"))?;
    let expected = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), b"hello");
    let body = json!({"keyId": "primary", "algo": "HMACSHA256", "data": BASE64.encode("hello")}).to_string();
    // Any version of the list, any generation id; no Content-Type, as of the Python client.
    for version in
        ["2018-06-28", "2019-01-30", "2019-10-22", "2019-11-05", "2020-07-07", "2021-12-07", "2022-08-03"]
    {
        let path = format!("/modules/relay/genid/any/sign?api-version={version}");
        let (status, answer) = workload(&stand, "relay", "POST", &path, Some(&body)).await?;
        assert_eq!((status, &answer), (200, &json!({"digest": BASE64.encode(expected.as_ref())})));
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(stand.workload_socket("relay"))?.permissions(),
    );
    assert_eq!(mode & 0o777, 0o666);
    Ok(())
}

#[tokio::test]
#[expect(clippy::type_complexity, reason = "the rows of a table")]
async fn the_workload_api_names_what_is_wrong() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let good = json!({"keyId": "primary", "algo": "HMACSHA256", "data": "aGVsbG8="}).to_string();
    let sign = format!("/modules/relay/genid/1/sign{VERSION}");
    let cases: Vec<(&str, &str, String, Vec<(&str, &str)>, String, u16, &str)> = vec![
        (
            "no version",
            "GET",
            "/trust-bundle".to_owned(),
            vec![],
            String::new(),
            400,
            "api-version not specified",
        ),
        (
            "an unknown version",
            "GET",
            "/trust-bundle?api-version=2030-01-01".to_owned(),
            vec![],
            String::new(),
            400,
            "invalid api-version \"2030-01-01\"",
        ),
        ("a wrong method", "GET", sign.clone(), vec![], String::new(), 400, "method not allowed"),
        (
            "a wrong method",
            "POST",
            format!("/trust-bundle{VERSION}"),
            vec![],
            "{}".to_owned(),
            400,
            "method not allowed",
        ),
        ("a wrong path", "GET", format!("/nothing{VERSION}"), vec![], String::new(), 404, "not found"),
        (
            "another content type",
            "POST",
            sign.clone(),
            vec![("Content-Type", "text/plain")],
            good.clone(),
            415,
            "request body must be application/json",
        ),
        ("a body of another shape", "POST", sign.clone(), vec![], "{}".to_owned(), 422, ""),
        ("no JSON", "POST", sign.clone(), vec![], "x".to_owned(), 422, ""),
        ("no base64", "POST", sign.clone(), vec![], json!({"data": "!"}).to_string(), 400, ""),
        (
            "another module",
            "POST",
            format!("/modules/camera/genid/1/sign{VERSION}"),
            vec![],
            good.clone(),
            403,
            "forbidden",
        ),
        (
            "edgeHub itself",
            "POST",
            format!("/modules/%24edgeHub/genid/1/sign{VERSION}"),
            vec![],
            good.clone(),
            403,
            "forbidden",
        ),
    ];
    for (case, method, path, headers, body, status, message) in cases {
        let stream = UnixStream::connect(stand.workload_socket("relay")).await?;
        let (got, answer) = call(stream, method, &path, &headers, Some(&body)).await?;
        assert_eq!(got, status, "{case}: {answer}");
        let text = answer["message"].as_str().unwrap();
        assert!(message.is_empty() || text == message, "{case}: {answer}");
    }
    let stream = UnixStream::connect(stand.workload_socket("relay")).await?;
    let json_type = [("Content-Type", "application/json; charset=utf-8")];
    let (status, _) = call(stream, "POST", &sign, &json_type, Some(&good)).await?;
    assert_eq!(status, 200);
    stand.fault(&shunt_sim::Fault::AnswerSign { status: 500, count: 1 });
    assert_eq!(workload(&stand, "relay", "POST", &sign, Some(&good)).await?.0, 500);
    assert_eq!(workload(&stand, "relay", "POST", &sign, Some(&good)).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn bundles_and_certificates_belong_together() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let get = |path: &'static str| workload(&stand, "relay", "GET", path, None);
    let (status, answer) = get("/trust-bundle?api-version=2018-06-28").await?;
    assert_eq!((status, answer["certificate"].as_str()), (200, Some(stand.ca_bundle())));
    assert_eq!(
        get("/manifest-trust-bundle?api-version=2018-06-28").await?,
        (200, json!({"certificate": ""}))
    );
    let (status, answer) = get("/modules?api-version=2018-06-28").await?;
    assert_eq!(status, 200);
    let names: Vec<_> =
        answer["modules"].as_array().unwrap().iter().map(|module| module["id"].clone()).collect();
    assert_eq!(names, [json!("edgeAgent"), json!("edgeHub"), json!("relay")]);

    let post = |path: String, body: Value| {
        let stand = &stand;
        async move { workload(stand, "relay", "POST", &path, Some(&body.to_string())).await }
    };
    let server = format!("/modules/relay/genid/1/certificate/server{VERSION}");
    let body = json!({"commonName": "host.local", "expiration": "2030-01-01T00:00:00Z"});
    let (status, answer) = post(server.clone(), body).await?;
    assert_eq!(status, 201);
    assert_eq!(answer["privateKey"]["type"], "key");
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(answer["certificate"].as_str().unwrap().as_bytes())
            .collect::<Result<_, _>>()?;
    assert_eq!(chain.len(), 2);
    let key = PrivateKeyDer::from_pem_slice(answer["privateKey"]["bytes"].as_str().unwrap().as_bytes())?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    // Fails unless key and certificate belong together.
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    assert_eq!(post(server, json!({})).await?.0, 422);
    Ok(())
}

#[tokio::test]
async fn an_identity_certificate_names_the_module_and_its_place_as_the_daemon_does() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let path = format!("/modules/relay/certificate/identity{VERSION}");
    let (status, answer) = workload(&stand, "relay", "POST", &path, Some("{}")).await?;
    assert_eq!(status, 201, "{answer}");
    let chain = answer["certificate"].as_str().unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes())?;
    let certificate = pem.parse_x509()?;
    let names: Vec<_> =
        certificate.subject().iter_common_name().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["relay"]);
    let usage = certificate.extended_key_usage()?.unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    let names = &certificate.subject_alternative_name()?.unwrap().value.general_names;
    let place = "URI: azureiot://shunt-sim.azure-devices.net/devices/shunt-device/modules/relay";
    assert_eq!(names, &[x509_parser::extensions::GeneralName::DNSName(place)]);

    let (status, answer) = workload(&stand, "camera", "POST", &path, Some("{}")).await?;
    assert_eq!((status, answer["message"].as_str()), (403, Some("forbidden")), "another module's");

    stand.set_certificate_lifetime(std::time::Duration::from_mins(1));
    let (_, answer) = workload(&stand, "relay", "POST", &path, Some("{}")).await?;
    let text = answer["expiration"].as_str().unwrap();
    let expiration = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)?;
    let left = expiration - time::OffsetDateTime::now_utc();
    assert!(left > time::Duration::ZERO && left <= time::Duration::MINUTE, "{left}");
    Ok(())
}

#[tokio::test]
async fn what_a_module_encrypts_only_it_can_decrypt() -> anyhow::Result<()> {
    let stand = start(&["relay", "camera"]).await?;
    let post = |module: &'static str, genid: &'static str, what: &'static str, body: Value| {
        let stand = &stand;
        let path = format!("/modules/{module}/genid/{genid}/{what}{VERSION}");
        async move { workload(stand, module, "POST", &path, Some(&body.to_string())).await }
    };
    let vector = BASE64.encode("any length of vector");
    let plain = json!({"plaintext": BASE64.encode("secret"), "initializationVector": vector});
    let (status, sealed) = post("relay", "1", "encrypt", plain.clone()).await?;
    assert_eq!(status, 200);
    let text = sealed["ciphertext"].as_str().unwrap();
    assert!(!BASE64.decode(text)?.windows(6).any(|window| window == b"secret"));
    let open = json!({"ciphertext": text, "initializationVector": vector});
    let (status, opened) = post("relay", "1", "decrypt", open.clone()).await?;
    assert_eq!((status, opened), (200, json!({"plaintext": BASE64.encode("secret")})));
    assert_eq!(post("relay", "2", "decrypt", open.clone()).await?.0, 500);
    assert_eq!(post("camera", "1", "decrypt", open.clone()).await?.0, 500);
    let other = json!({"ciphertext": text, "initializationVector": BASE64.encode("another")});
    assert_eq!(post("relay", "1", "decrypt", other).await?.0, 500);
    assert_eq!(
        post("relay", "1", "encrypt", json!({"plaintext": "!", "initializationVector": ""})).await?.0,
        400
    );
    assert_eq!(post("relay", "1", "encrypt", json!({"plaintext": ""})).await?.0, 422);
    Ok(())
}

#[tokio::test]
async fn the_eleventh_connection_is_closed_without_an_answer() -> anyhow::Result<()> {
    let stand = start(&["relay"]).await?;
    let path = stand.workload_socket("relay");
    let request = format!("GET /trust-bundle{VERSION} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut first = [0_u8; 12];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut first)).await??;
        assert_eq!(&first, b"HTTP/1.1 200");
        open.push(stream);
    }
    let mut refused = UnixStream::connect(&path).await?;
    let mut rest = Vec::new();
    // A reset counts as closed.
    let _closed = tokio::time::timeout(LIMIT, refused.read_to_end(&mut rest)).await?;
    assert!(rest.is_empty());
    drop(open);
    shunt_testkit::eventually(LIMIT, || async {
        workload(&stand, "relay", "GET", &format!("/trust-bundle{VERSION}"), None).await.is_ok()
    })
    .await;
    Ok(())
}
