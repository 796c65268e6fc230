//! A leaf device behind the gateway, on the crate `azure_iot_sdk`, driven through its standard streams.
//!
//! Usage: `leaf_device` with two variables:
//! `IOTHUB_DEVICE_CONNECTION_STRING` (`HostName=...;DeviceId=...;SharedAccessKey=...;GatewayHostName=...`), and
//! `SSL_CERT_FILE`, the bundle that OpenSSL shall trust, because the crate knows the system's roots only.
//! The gateway must listen on port 8883, which is fixed in the crate.
//!
//! It reads commands from standard input, one a line, and prints what happens, one JSON object a line:
//!
//! ```text
//! send <JSON>      sends telemetry        -> {"event": "sent"}; at quality of service 0: written, no more
//! report <JSON>    reports properties     -> {"event": "reported"}, in the same sense
//! quit             ends                   -> {"event": "bye"}
//! ```
//!
//! And without being asked: `{"event": "connected"}`, `message` (from the cloud), `desired`, `method`.
//! Each direct method is answered with status 200 and `{"echo": <payload>}`.

#![expect(clippy::print_stdout, reason = "standard output is how this program speaks")]

use anyhow::{Context as _, anyhow};
use azure_iot_sdk::{DeviceKeyTokenSource, DirectMethodResponse, IoTHubClient, Message, MessageType};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let text = std::env::var("IOTHUB_DEVICE_CONNECTION_STRING").context("IOTHUB_DEVICE_CONNECTION_STRING")?;
    let field = |name: &str| {
        let start = format!("{name}=");
        text.split(';').find_map(|part| part.strip_prefix(&start)).map(str::to_owned)
    };
    let host = field("GatewayHostName").or_else(|| field("HostName")).context("no HostName")?;
    let device = field("DeviceId").context("no DeviceId")?;
    let key = field("SharedAccessKey").context("no SharedAccessKey")?;
    // The crate puts the host that it calls into the token too; a gateway takes its own name there.
    let source = DeviceKeyTokenSource::new(&host, &device, &key).map_err(|error| anyhow!("{error:?}"))?;
    let mut client = IoTHubClient::new(&host, device, source).await.map_err(|error| anyhow!("{error}"))?;
    let mut receiver = client.get_receiver().await;
    tell(&json!({"event": "connected"}));
    let mut commands = commands();
    loop {
        tokio::select! {
            message = receiver.recv() => match message {
                Some(MessageType::ErrorReceive(error)) => anyhow::bail!("the line broke: {error}"),
                Some(message) => receive(&mut client, message).await?,
                None => anyhow::bail!("the client has ended"),
            },
            command = commands.recv() => match command.filter(|command| command != "quit") {
                Some(command) => obey(&mut client, &command).await?,
                None => break,
            },
        }
    }
    tell(&json!({"event": "bye"}));
    Ok(())
}

/// The lines of standard input, read on a thread of their own, because the wait for one cannot be given up.
fn commands() -> mpsc::Receiver<String> {
    // Full: the reader waits.
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn obey(client: &mut IoTHubClient, command: &str) -> anyhow::Result<()> {
    let (command, body) = command.split_once(' ').unwrap_or((command, ""));
    match command {
        "send" => {
            let message = Message::builder()
                .set_body(body.as_bytes().to_vec())
                .set_message_id("leaf-1".to_owned())
                .set_content_type("application/json".to_owned())
                .set_content_encoding("utf-8".to_owned())
                .add_message_property("kind".to_owned(), "leaf".to_owned())
                .build();
            client.send_message(message).await.map_err(|error| anyhow!("{error}"))?;
            tell(&json!({"event": "sent"}));
        }
        "report" => {
            client.send_property_update("7", body).await.map_err(|error| anyhow!("{error}"))?;
            tell(&json!({"event": "reported"}));
        }
        other => anyhow::bail!("the command {other:?} is unknown"),
    }
    Ok(())
}

async fn receive(client: &mut IoTHubClient, message: MessageType) -> anyhow::Result<()> {
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap_or(Value::Null);
    match message {
        MessageType::C2DMessage(message) => {
            tell(&json!({"event": "message", "body": String::from_utf8_lossy(&message.body)}));
        }
        MessageType::DesiredPropertyUpdate(message) => {
            tell(&json!({"event": "desired", "patch": json(&message.body)}));
        }
        MessageType::DirectMethod(call) => {
            let payload = json(&call.message.body);
            tell(&json!({"event": "method", "name": call.method_name, "payload": payload}));
            let answer = json!({"echo": payload}).to_string();
            let response = DirectMethodResponse::new(call.request_id, 200, Some(answer));
            client.respond_to_direct_method(response).await.map_err(|error| anyhow!("{error}"))?;
        }
        MessageType::ErrorReceive(error) => anyhow::bail!("the line broke: {error}"),
    }
    Ok(())
}

fn tell(event: &Value) {
    println!("{event}");
}
