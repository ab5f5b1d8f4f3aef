//! The profiles: IstioOperator files that every installation starts from.

use isthmus_api::suggest::nearest;
use serde_json::Value;

use crate::yaml;

/// A profile: its name, and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// As `profile:` says it.
    pub name: &'static str,
    /// The IstioOperator.
    pub text: &'static str,
}

/// Every profile.
pub const ALL: &[Profile] = &[
    Profile {
        name: "default",
        text: include_str!("../profiles/default.yaml"),
    },
    Profile {
        name: "demo",
        text: include_str!("../profiles/demo.yaml"),
    },
    Profile {
        name: "empty",
        text: include_str!("../profiles/empty.yaml"),
    },
    Profile {
        name: "minimal",
        text: include_str!("../profiles/minimal.yaml"),
    },
    Profile {
        name: "remote",
        text: include_str!("../profiles/remote.yaml"),
    },
];

impl Profile {
    /// The profile of this name.
    ///
    /// # Errors
    /// There is none; the message names the nearest.
    pub fn named(name: &str) -> Result<&'static Profile, String> {
        ALL.iter().find(|p| p.name == name).ok_or_else(|| {
            let names = || ALL.iter().map(|p| p.name);
            let meant = match nearest(name, names()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("write one of {}", names().collect::<Vec<_>>().join(", ")),
            };
            format!("there is no profile {name:?}; {meant}")
        })
    }

    /// Its first line: what it is for.
    pub fn summary(&self) -> &'static str {
        let line = self.text.lines().next().unwrap_or_default();
        line.trim_start_matches("# ")
    }

    /// Its `spec`.
    pub fn spec(&self) -> Value {
        let document = yaml::read(self.text).ok().and_then(|mut all| all.pop());
        document
            .and_then(|mut d| d.get_mut("spec").map(Value::take))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_a_valid_operator_file() {
        for profile in ALL {
            let text = profile.text.replace("metadata:", "metadata:\n  name: p");
            let parsed = isthmus_api::parse(&text, profile.name);
            assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
            assert_eq!(parsed.objects.len(), 1);
            assert!(profile.spec()["components"]["base"]["enabled"].is_boolean());
            assert!(profile.summary().len() > 20);
        }
        assert_eq!(
            Profile::named("defualt").unwrap_err(),
            "there is no profile \"defualt\"; did you mean default?"
        );
    }
}
