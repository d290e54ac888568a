//! `ronproxy use`, `hint`, `avoid` and `pause`: what is wanted of new flows, until further notice.

use clap::Args;

use super::{
    CliError, completions,
    folder::Folder,
    output::{print, print_json},
};
use crate::{admin, app::Steering, flow::Hint, identity::NodeName};

/// The word that takes steering back.
const AUTO: &str = "auto";

/// Send new flows through an exit, until further notice
///
/// It takes precedence over the rules of the configuration, and holds until the node stops, or longer with --save. The options in a
/// program's user name take precedence over it. Open flows keep their exit.
#[derive(Debug, Args)]
pub(super) struct Use {
    /// The exit, or `auto`: as the rules say
    #[arg(value_name = "EXIT", value_parser = named::<NodeName>, add = completions::exits_or(AUTO))]
    exit: Named<NodeName>,
    #[command(flatten)]
    how: How,
}

/// Give new flows a routing hint, until further notice
///
/// It takes precedence over the rules of the configuration, and holds until the node stops, or longer with --save. The options in a
/// program's user name take precedence over it.
#[derive(Debug, Args)]
pub(super) struct HintCommand {
    /// The hint: latency, loss, throughput or app:METRIC; or `auto`: as the rules say
    #[arg(value_name = "HINT", value_parser = named::<Hint>)]
    hint: Named<Hint>,
    #[command(flatten)]
    how: How,
}

/// Keep new flows off a relay, until further notice
///
/// It holds beside the rules of the configuration, until the node stops, or longer with --save.
#[derive(Debug, Args)]
pub(super) struct Avoid {
    /// The relay
    #[arg(value_name = "RELAY", add = completions::relays())]
    relay: NodeName,
    /// Take it back
    #[arg(long)]
    not: bool,
    #[command(flatten)]
    how: How,
}

/// Let a routing rule decide nothing, until further notice
///
/// New flows then go by the next rule that matches. It holds until the node stops, or longer with --save, and wherever the rule stands
/// in the file, as long as its text is the same.
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The rule's number or identifier, see `ronproxy rules`
    #[arg(value_name = "RULE")]
    rule: String,
    /// Take it back
    #[arg(long)]
    not: bool,
    #[command(flatten)]
    how: How,
}

/// How long it holds, and how that is said.
#[derive(Debug, Args)]
struct How {
    /// Keep it after a restart of the node, too, with all that is steered now
    #[arg(long)]
    save: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

/// A value, or `auto`.
#[derive(Debug, Clone)]
struct Named<T>(Option<T>);

fn named<T>(text: &str) -> Result<Named<T>, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    if text == AUTO {
        return Ok(Named(None));
    }
    text.parse::<T>().map(|value| Named(Some(value))).map_err(|error| error.to_string())
}

impl Use {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let exit = self.exit.0.map_or_else(|| AUTO.to_owned(), |exit| exit.to_string());
        steer(folder, "exit", &exit, &self.how).await
    }
}

impl HintCommand {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let hint = self.hint.0.map_or_else(|| AUTO.to_owned(), |hint| hint.to_string());
        steer(folder, "hint", &hint, &self.how).await
    }
}

impl Avoid {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let what = if self.not { "unavoid" } else { "avoid" };
        steer(folder, what, self.relay.as_str(), &self.how).await
    }
}

impl Pause {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let what = if self.not { "unpause" } else { "pause" };
        steer(folder, what, &self.rule, &self.how).await
    }
}

async fn steer(folder: &Folder, what: &str, value: &str, how: &How) -> Result<(), CliError> {
    let facts = folder.client().post(&admin::steer(what, value, how.save)).await?;
    if how.json { print_json(&facts) } else { print(told(&facts)) }
}

/// What is steered, in one sentence.
fn told(steering: &Steering) -> String {
    let by_rules = || "as the rules say".to_owned();
    let exit = steering.exit.as_ref().map_or_else(by_rules, ToString::to_string);
    let hint = steering.hint.as_ref().map_or_else(by_rules, ToString::to_string);
    let avoided: Vec<&str> = steering.avoid.iter().map(NodeName::as_str).collect();
    let avoid = match &avoided[..] {
        [] => String::new(),
        relays => format!(", not by {}", relays.join(", ")),
    };
    let paused = match steering.paused.len() {
        0 => "",
        1 => ", without one rule (`ronproxy rules`)",
        _ => ", without some rules (`ronproxy rules`)",
    };
    format!("New flows: exit {exit}, hint {hint}{avoid}{paused}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_is_steered() {
        let mut steering = Steering::default();
        let nothing = "New flows: exit as the rules say, hint as the rules say.";
        assert_eq!(told(&steering), nothing);
        steering.exit = Some("mit".parse().unwrap());
        steering.hint = Some(Hint::Loss);
        steering.avoid.insert("utah".parse().unwrap());
        assert_eq!(told(&steering), "New flows: exit mit, hint loss, not by utah.");
        steering.paused.insert("ab12cd34".into());
        assert!(told(&steering).ends_with("utah, without one rule (`ronproxy rules`)."));
    }

    #[test]
    fn auto_takes_steering_back() {
        assert!(named::<NodeName>("auto").unwrap().0.is_none());
        assert_eq!(named::<Hint>("loss").unwrap().0, Some(Hint::Loss));
        assert!(named::<Hint>("speed").is_err());
    }
}
