//! The device registry, in the form of gbaeke/go-device and gbaeke/go-data.

use serde_json::{Value, json};
use shunt_testkit::fresh_address;

use crate::rig::{Gateway, PATIENCE, Program, environment, memory, module, python_has};

#[tokio::test]
async fn devices_are_the_modules_on_the_bus_in_the_form_of_go_device_and_go_data() {
    let folder = tempfile::tempdir().unwrap();
    let bus = memory(folder.path());
    let gateway = Gateway::start(environment(folder.path(), &bus, &[])).await;
    let device1 = module(&bus, "device1", fresh_address().unwrap());
    let device2 = module(&bus, "device2", fresh_address().unwrap());
    gateway.sees("device1", true).await;
    device2.close(PATIENCE).await;
    gateway.sees("device2", false).await;

    let text = |path: &'static str| {
        let request = gateway.get(path);
        async move {
            let answer = request.send().await.unwrap();
            let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
            (answer.status().as_u16(), kind, answer.text().await.unwrap())
        }
    };
    let json = "application/json".to_owned();
    for (path, body) in [
        ("/device/", r#"{"message":"Device API at /"}"#),
        ("/device/device1", r#"{"name":"device1","active":true}"#),
        ("/device/device2", r#"{"name":"device2"}"#),
        ("/device/device3", "{}"),
    ] {
        assert_eq!(text(path).await, (200, json.clone(), body.to_owned()), "{path}");
    }
    let plain = "text/plain; charset=utf-8".to_owned();
    for (path, active) in [("/data/device1", true), ("/data/device2", false), ("/data/device3", false)] {
        let body = format!("Device active:  {active}\nOh and, no data for you!\n");
        assert_eq!(text(path).await, (200, plain.clone(), body), "{path}");
    }
    drop(device1);
    gateway.stop().await;
}

#[tokio::test]
async fn the_grpc_call_answers_the_real_client_on_the_same_port() {
    if !python_has("grpc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bus = memory(folder.path());
    let gateway = Gateway::start(environment(folder.path(), &bus, &[])).await;
    let _device1 = module(&bus, "device1", fresh_address().unwrap());
    gateway.sees("device1", true).await;
    let address = gateway.http.to_string();
    let mut client =
        Program::start("python/device_client.py", &[&address, "device1", "device3", ""], gateway.http, None);
    for expected in [
        json!({"name": "device1", "active": true}),
        json!({"name": "", "active": false}),
        json!({"name": "", "active": false}),
    ] {
        let line: Value = serde_json::from_str(&client.line().await.unwrap()).unwrap();
        assert_eq!(line, expected);
    }
    gateway.stop().await;
}
