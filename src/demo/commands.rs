//! What a visitor can ask of the demo, by line or by key. PURE.

use std::str::FromStr;

use super::paths::{PathId, Place};
use crate::emulator::LossRate;

/// What `d` and a bare `get` fetch: some 20 s at the demo's rates, long enough to cut a path in
/// the middle and see what happens.
pub(super) const BIG: &str = "/big?mb=20";

/// Something a visitor asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Cut a path both ways.
    Cut(PathId),
    /// Heal a path: no cut, no extra loss.
    Heal(PathId),
    /// Cut the path, or heal it if it is not whole.
    Toggle(PathId),
    /// Cut the first path of the route that the visitor's flows take.
    CutInUse,
    /// Lose this share of the packets on a path, both ways, in place of its own loss.
    Lose(PathId, LossRate),
    /// Add heavy loss to the direct path, or take it away.
    ToggleLoss,
    /// Kill a node.
    Crash(Place),
    /// Start a node again.
    Restart(Place),
    /// Kill a node, or start it if it does not run.
    ToggleNode(Place),
    /// Heal every path and start every node.
    HealAll,
    /// Download this path of the campus site.
    Get(String),
    /// Tell a link to the dashboard.
    Dashboard,
    /// Show everything now.
    Status,
    /// Show what can be asked.
    Help,
    /// Close what `?` opened, or else end the demo.
    Leave,
    /// End the demo.
    Quit,
}

/// A line that is no command; says what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandError {
    /// The verb is unknown.
    #[error(
        "{0:?} is no command; try: cut, heal, loss, crash, restart, get, dashboard, status, help, quit"
    )]
    Unknown(String),
    /// Two sites are needed.
    #[error("{0} needs two of the sites arosnet, utah, mit, mediaone, as in: {0} mit arosnet")]
    Path(&'static str),
    /// One site is needed.
    #[error("{0} needs one of the sites utah, mit, mediaone, as in: {0} utah")]
    Site(&'static str),
    /// The entry's node is the visitor's own.
    #[error("arosnet is where you are; crash another site, or quit")]
    Entry,
    /// A percentage is needed.
    #[error("loss needs two sites and a percentage from 0 to 100, as in: loss mit arosnet 30")]
    Percent,
    /// A path on the campus site is needed.
    #[error("get needs a path of the campus site, as in: get /big?mb=5")]
    Get,
}

/// The commands, one a line, for `help`.
pub(super) const HELP: [&str; 8] = [
    "cut A B          cut the path between two sites (arosnet, utah, mit, mediaone), both ways",
    "heal A B | heal  heal one path; everything",
    "loss A B PCT     lose PCT percent of the packets between two sites",
    "crash SITE       kill a node without warning; restart SITE starts it again",
    "get [PATH]       download from the campus site through the proxy, /big?mb=20 if no path is given",
    "dashboard        a link that opens the dashboard in a browser, once",
    "status           show links, lanes and flows now",
    "quit             end the demo",
];

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().map_or(("", &[][..]), |(verb, rest)| (*verb, rest));
        match (verb.to_ascii_lowercase().as_str(), rest) {
            ("cut", rest) => Ok(Self::Cut(path("cut", rest)?)),
            ("heal", [] | ["all"]) => Ok(Self::HealAll),
            ("heal", rest) => Ok(Self::Heal(path("heal", rest)?)),
            ("loss", [ends @ .., percent]) if ends.len() == 2 => {
                Ok(Self::Lose(path("loss", ends)?, percentage(percent)?))
            }
            ("loss", _) => Err(CommandError::Percent),
            ("crash" | "kill", rest) => Ok(Self::Crash(site("crash", rest)?)),
            ("restart" | "start", rest) => Ok(Self::Restart(site("restart", rest)?)),
            ("get", []) => Ok(Self::Get(BIG.to_owned())),
            ("get", [path]) if path.starts_with('/') => Ok(Self::Get((*path).to_owned())),
            ("get", _) => Err(CommandError::Get),
            ("dashboard" | "open", _) => Ok(Self::Dashboard),
            ("status", _) => Ok(Self::Status),
            ("help" | "?", _) => Ok(Self::Help),
            ("quit" | "exit" | "q", _) => Ok(Self::Quit),
            _ => Err(CommandError::Unknown(verb.chars().take(32).collect())),
        }
    }
}

impl Command {
    /// What a key of the full-screen view means; `None`: nothing.
    #[must_use]
    pub(super) fn of_key(key: char) -> Option<Self> {
        match key.to_ascii_lowercase() {
            '1' => Some(Self::CutInUse),
            digit @ '2'..='6' => {
                let number = usize::try_from(digit.to_digit(10)?).ok()?;
                PathId::numbered(number).map(Self::Toggle)
            }
            'b' => Some(Self::Dashboard),
            'l' => Some(Self::ToggleLoss),
            'u' => Some(Self::ToggleNode(Place::Utah)),
            'm' => Some(Self::ToggleNode(Place::MediaOne)),
            'h' => Some(Self::HealAll),
            'd' => Some(Self::Get(BIG.to_owned())),
            '?' => Some(Self::Help),
            'q' => Some(Self::Quit),
            _ => None,
        }
    }
}

fn path(verb: &'static str, words: &[&str]) -> Result<PathId, CommandError> {
    let [a, b] = words else { return Err(CommandError::Path(verb)) };
    let ends = Place::find(a).zip(Place::find(b));
    ends.and_then(|(a, b)| PathId::between(a, b)).ok_or(CommandError::Path(verb))
}

fn site(verb: &'static str, words: &[&str]) -> Result<Place, CommandError> {
    let [name] = words else { return Err(CommandError::Site(verb)) };
    match Place::find(name) {
        Some(Place::ArosNet) => Err(CommandError::Entry),
        found => found.ok_or(CommandError::Site(verb)),
    }
}

fn percentage(word: &str) -> Result<LossRate, CommandError> {
    let percent: f64 = word.trim_end_matches('%').parse().map_err(|_| CommandError::Percent)?;
    let possible = (0.0..=100.0).contains(&percent);
    possible.then(|| LossRate::from_percent(percent)).ok_or(CommandError::Percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, CommandError> {
        line.parse()
    }

    #[test]
    fn every_command_of_the_help_is_understood() {
        let direct = PathId::DIRECT;
        let local = PathId::between(Place::Utah, Place::ArosNet).unwrap();
        for (line, command) in [
            ("cut mit arosnet", Command::Cut(direct)),
            ("  CUT  ArosNet MIT ", Command::Cut(direct)),
            ("heal utah arosnet", Command::Heal(local)),
            ("heal", Command::HealAll),
            ("loss mit arosnet 30", Command::Lose(direct, LossRate::from_percent(30.0))),
            ("loss mit arosnet 2.5%", Command::Lose(direct, LossRate::from_percent(2.5))),
            ("crash utah", Command::Crash(Place::Utah)),
            ("restart utah", Command::Restart(Place::Utah)),
            ("get /big?mb=5", Command::Get("/big?mb=5".into())),
            ("get", Command::Get(BIG.into())),
            ("status", Command::Status),
            ("help", Command::Help),
            ("quit", Command::Quit),
        ] {
            assert_eq!(read(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_command_gets_a_sentence_that_helps() {
        for (line, hint) in [
            ("", "try: cut"),
            ("cutt mit utah", "try: cut"),
            ("cut mit", "cut mit arosnet"),
            ("cut mit mit", "two of the sites"),
            ("cut mit berkeley", "two of the sites"),
            ("heal mit", "heal mit arosnet"),
            ("loss mit arosnet", "loss mit arosnet 30"),
            ("loss mit arosnet 101", "0 to 100"),
            ("loss mit arosnet NaN", "0 to 100"),
            ("crash", "crash utah"),
            ("crash arosnet", "where you are"),
            ("get big", "get /big"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line:?}: {error}");
        }
    }

    #[test]
    fn key_1_cuts_the_path_in_use_and_others_are_numbers_of_the_map() {
        assert_eq!(Command::of_key('1'), Some(Command::CutInUse));
        for path in PathId::all().filter(|path| *path != PathId::DIRECT) {
            let key = char::from_digit(u32::try_from(path.number()).unwrap(), 10).unwrap();
            assert_eq!(Command::of_key(key), Some(Command::Toggle(path)));
        }
        assert_eq!(Command::of_key('7'), None);
        assert_eq!(Command::of_key('Q'), Some(Command::Quit));
    }
}
