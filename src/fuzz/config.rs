//! The configuration file. Only its owner writes it, but a bad one gets an error, never a panic.

use super::Fuzz;
use crate::config::Config;

const WORDS: &[&[u8]] = &[
    b"[[rule]]\n",
    b"[[policy]]\n",
    b"[exit]\n",
    b"= \"",
    b"'''",
    b"\n",
    b"{",
    b"[",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b"\"1000000000000 years\"",
    b"\"\\u0000\"",
    b"\xf0\x9f\xa6\x80",
];

#[test]
fn mutated_configurations_are_read_or_refused() {
    let example = Config::default_text();
    let examples = example.replace("\n#", "\n");
    let rules = "[[rule]]\nhost = ['*.mit.edu', '10.0.0.0/8']\nport = [22, '1000-2000']\n\
                 hint = 'loss'\nspread = 2\npatience = '5min'\n[[policy]]\nclass = 'bulk'\n";
    let seeds = [example, &examples, rules].map(|text| text.as_bytes().to_vec());
    Fuzz::new("config", seeds).with_words(WORDS).run(|bytes| {
        if let Err(error) = Config::parse(&String::from_utf8_lossy(bytes)) {
            assert!(!error.to_string().is_empty());
        }
    });
}
