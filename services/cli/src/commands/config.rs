//! `gridfaas config`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use proto::container::v1::{ListSettingsRequest, SetSettingRequest, Setting as Wire};
use serde::Serialize;
use service_kit::config::{self, Given, Origin};

use crate::output::{Output, Show, columns, printable};
use crate::stack::{Stack, told};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the node's settings that can change while it runs
    Show(ShowArgs),
    /// Change a setting, at once and for good
    Set(SetArgs),
    /// Go back to what the configuration file says
    Reset(ResetArgs),
    /// Tell whether a service would start with a configuration file, and who sets what
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Tell also who set each: the configuration, or `config set`
    #[arg(long)]
    origin: bool,
}

/// The environment counts as it does for the service, such as GRIDFAAS_CREDIT__LISTEN.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Which service it is for
    #[arg(value_enum)]
    service: Service,
    /// Its configuration, in TOML
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Service {
    ContainerManager,
    CreditManager,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// As in the configuration file, such as scaler.guardian.window_ms
    key: String,
    /// What it becomes
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
    /// Who set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
}

impl From<Wire> for Setting {
    fn from(setting: Wire) -> Self {
        Self {
            origin: None,
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
                setting.origin.unwrap_or(&setting.configured).to_owned(),
            ]
        };
        let is_origin = self.0.iter().any(|setting| setting.origin.is_some());
        let last = if is_origin { "ORIGIN" } else { "CONFIGURED" };
        columns(["KEY", "VALUE", last], self.0.iter().map(row))
    }
}

#[derive(Serialize)]
struct Checked(Vec<Given>);

impl Show for Checked {
    fn text(&self) -> String {
        let row = |given: &Given| {
            let origin = match given.origin {
                Origin::File => "file",
                Origin::Environment => "environment",
            };
            [printable(&given.key), printable(&given.value), origin.to_owned()]
        };
        columns(["KEY", "VALUE", "ORIGIN"], self.0.iter().map(row))
    }
}

/// Errors as the service would at its start, as far as that depends on the configuration alone.
fn check(args: &CheckArgs) -> anyhow::Result<Checked> {
    let (file, not_valid) = (Some(args.file.as_path()), "the configuration is not valid");
    let prefix = match args.service {
        Service::ContainerManager => {
            let prefix = "GRIDFAAS_CONTAINER";
            let loaded: container_manager::Config = config::load(file, prefix)?;
            loaded.validate().context(not_valid)?;
            prefix
        }
        Service::CreditManager => {
            let prefix = "GRIDFAAS_CREDIT";
            let loaded: credit_manager::Config = config::load(file, prefix)?;
            loaded.validate().context(not_valid)?;
            prefix
        }
    };
    Ok(Checked(config::given(file, prefix)?))
}

pub(crate) async fn run(command: ConfigCommand, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let (key, value) = match command {
        ConfigCommand::Check(args) => return output.show(&check(&args)?),
        ConfigCommand::Show(args) => {
            let request = ListSettingsRequest {};
            let reply = stack
                .containers()
                .await?
                .list_settings(request)
                .await
                .map_err(told)?;
            let settings = reply.into_inner().settings.into_iter().map(|setting| {
                let is_set = setting.value != setting.configured;
                let origin = if is_set { "config set" } else { "configuration" };
                Setting {
                    origin: args.origin.then_some(origin),
                    ..Setting::from(setting)
                }
            });
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
