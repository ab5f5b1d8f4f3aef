//! What `--help` promises.

use clap::{CommandFactory, Parser};

use super::Cli;

/// Words of a line as a shell has them; enough for single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in line.split('\'').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_command_says_what_it_does_and_shows_an_example_that_can_be_typed() {
    for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = command.get_name();
        let about = command
            .get_about()
            .unwrap_or_else(|| panic!("{name} has no line in --help"));
        assert!(about.to_string().len() > 20, "{name}: {about}");
        let help = command
            .get_after_help()
            .unwrap_or_else(|| panic!("{name} has no example"))
            .to_string();
        let mut examples = 0;
        for line in help.lines() {
            // An example may be one side of a pipe.
            let Some(start) = line.find("isthmus ") else {
                continue;
            };
            if let Err(error) = Cli::try_parse_from(words(&line[start..])) {
                panic!("{line:?}: {error}");
            }
            assert!(
                line.contains(&format!("isthmus {name}")) || name == "fetch",
                "{name}: {line}"
            );
            examples += 1;
        }
        assert!(examples > 0, "{name} has no example");
    }
}

#[test]
fn subcommands_are_described_too() {
    let mut cli = Cli::command();
    cli.build();
    let mut open: Vec<&clap::Command> = cli.get_subcommands().collect();
    while let Some(command) = open.pop() {
        if command.is_hide_set() {
            continue;
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.len() > 10, "{:?} says {about:?}", command.get_bin_name());
        // What describes the flags that several commands share must not describe the command.
        assert!(
            !about.starts_with("Which "),
            "{:?} says {about:?}",
            command.get_bin_name()
        );
        open.extend(command.get_subcommands());
    }
}
