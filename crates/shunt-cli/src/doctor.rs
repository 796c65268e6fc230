//! To come.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {}
impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<std::process::ExitCode> {
        anyhow::bail!("not there yet")
    }
}
