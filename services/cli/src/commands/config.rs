//! `gridfaas config`

use clap::{Args, Subcommand};
use proto::container::v1::{ListSettingsRequest, SetSettingRequest, Setting as Wire};
use serde::Serialize;

use crate::output::{Output, Show, columns};
use crate::stack::{Stack, told};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the node's settings that can change while it runs
    Show,
    /// Change a setting, at once and for good
    Set(SetArgs),
    /// Go back to what the configuration file says
    Reset(ResetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// As in the configuration file, such as scaler.guardian.window_ms
    key: String,
    value: String,
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// As `config show` lists it
    key: String,
}

#[derive(Serialize)]
struct Setting {
    key: String,
    value: String,
    /// What the configuration file says.
    configured: String,
}

impl From<Wire> for Setting {
    fn from(setting: Wire) -> Self {
        Self {
            key: setting.key,
            value: setting.value,
            configured: setting.configured,
        }
    }
}

impl Show for Setting {
    fn text(&self) -> String {
        format!("{} = {}", self.key, self.value)
    }
}

#[derive(Serialize)]
struct Settings(Vec<Setting>);

impl Show for Settings {
    fn text(&self) -> String {
        let row = |setting: &Setting| {
            [
                setting.key.clone(),
                setting.value.clone(),
                setting.configured.clone(),
            ]
        };
        columns(["KEY", "VALUE", "CONFIGURED"], self.0.iter().map(row))
    }
}

pub(crate) async fn run(command: ConfigCommand, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let (key, value) = match command {
        ConfigCommand::Show => {
            let request = ListSettingsRequest {};
            let reply = stack
                .containers()
                .await?
                .list_settings(request)
                .await
                .map_err(told)?;
            let settings = reply.into_inner().settings.into_iter().map(Setting::from);
            return output.show(&Settings(settings.collect()));
        }
        ConfigCommand::Set(SetArgs { key, value }) => (key, Some(value)),
        ConfigCommand::Reset(ResetArgs { key }) => (key, None),
    };
    let request = SetSettingRequest { key, value };
    let reply = stack
        .containers()
        .await?
        .set_setting(request)
        .await
        .map_err(told)?;
    output.show(&Setting::from(reply.into_inner().setting.unwrap_or_default()))
}
