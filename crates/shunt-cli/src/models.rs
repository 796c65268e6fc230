//! To come.
#[derive(Debug, clap::Args)]
pub(crate) struct Models {}
impl Models {
    pub(crate) async fn run(self) -> anyhow::Result<std::process::ExitCode> {
        anyhow::bail!("not there yet")
    }
}
