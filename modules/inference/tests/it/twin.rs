//! The module twin, against the stand-in of IoT Edge: what is reported, and what is left when the cloud is away.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use shunt_module::Common;
use shunt_sim::{Sim, SimOptions};
use shunt_testkit::{eventually, found, fresh_address};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use crate::{
    swaps::Shop,
    yard::{LIMIT, MODELS, client, put_models},
};

/// The module as its program runs it.
struct Program {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    exit: JoinHandle<u8>,
}

impl Program {
    fn start(mut environment: BTreeMap<String, String>) -> Self {
        let address = fresh_address().unwrap();
        environment.insert("SHUNT_HTTP_LISTEN".to_owned(), address.to_string());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            stopped.await.ok();
            "the test"
        };
        let exit =
            tokio::spawn(async move { shunt_module::live(&environment, stopped, inference::run).await });
        Self { address, stop, exit }
    }

    /// Waits until this model serves; what is told of it.
    async fn serves(&self, model: &str) -> Value {
        let served = found(LIMIT, || async {
            let answer = client().get(format!("http://{}/models", self.address)).send().await.ok()?;
            let answer: Value = answer.json().await.ok()?;
            answer["served"].as_array()?.iter().find(|served| served["name"] == model).cloned()
        });
        served.await.unwrap_or_else(|| panic!("{model} does not serve"))
    }

    async fn stop(self) -> u8 {
        self.stop.send(()).ok();
        timeout(LIMIT, self.exit).await.unwrap().unwrap()
    }
}

fn environment(folder: &Path, common: &Common) -> BTreeMap<String, String> {
    let bus = format!("memory:{}", folder.display().to_string().replace('/', "-"));
    let variables = [
        ("SHUNT_BUS_URL", bus),
        ("SHUNT_DATA_DIR", common.data_dir.display().to_string()),
        ("SHUNT_MODELS_DIR", common.models_dir.display().to_string()),
        ("SHUNT_DRAIN_LIMIT", "2".to_owned()),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_twin_names_a_model_is_answered_and_the_model_serves_after_a_restart_without_cloud_and_network() {
    let shop = Shop::open(std::fs::read(Path::new(MODELS).join("inverse.onnx")).unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let common = Common::in_folder(folder.path());
    put_models(&common, |catalog| catalog.replace("ADDRESS", &shop.address));
    let sim = SimOptions { folder: folder.path().join("sim"), ..SimOptions::default() };
    let sim = Sim::start(sim).await.unwrap();
    sim.add_module("inference").unwrap();
    let mut variables = environment(folder.path(), &common);
    variables.extend(sim.module_environment("inference"));
    let reported = || {
        let twin = sim.twin("inference").unwrap();
        twin.pointer("/properties/reported").or_else(|| twin.get("reported")).cloned().unwrap_or_default()
    };

    let program = Program::start(variables.clone());
    program.serves("colours").await;
    let version = sim.patch_desired("inference", &json!({"model": "remote"})).unwrap();
    let expected = json!({"value": "remote", "ac": 200, "av": version, "ad": "applied"});
    eventually(LIMIT, || async { reported()["model"] == expected }).await;
    eventually(LIMIT, || async { reported()["serving"]["model"]["model"] == "remote" }).await;
    let served = program.serves("remote").await;
    assert_eq!(reported()["serving"]["model"]["digest"], served["digest"]);
    assert_eq!(served["proof"]["compared"], 3);

    // A model that does not work: the verdict says why, and the one before serves on.
    let version = sim.patch_desired("inference", &json!({"model": "swapped"})).unwrap();
    eventually(LIMIT, || async {
        let answer = reported()["model"].clone();
        let said = answer["ad"].as_str().unwrap_or_default();
        answer["av"] == version
            && answer["ac"] == 400
            && answer["value"] == "remote"
            && said.contains("does not answer as the catalog says")
    })
    .await;
    program.serves("remote").await;
    assert_eq!(reported()["serving"]["model"]["model"], "remote");

    program.stop().await;
    shop.close();
    sim.stop().await;
    let program = Program::start(variables);
    program.serves("remote").await;
    assert_eq!(program.stop().await, 0);
}
