//! Response flags, with Envoy's letters.

use std::fmt;

/// A set of response flags (Envoy `%RESPONSE_FLAGS%`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

// In the order in which Envoy writes them (`ResponseFlagUtils`).
flags! {
    /// No healthy upstream host.
    UH = 0;
    /// Upstream request timeout.
    UT = 1;
    /// Upstream remote reset.
    UR = 2;
    /// Upstream connection failure.
    UF = 3;
    /// Upstream connection termination.
    UC = 4;
    /// Upstream overflow (circuit breaking).
    UO = 5;
    /// No route configured.
    NR = 6;
    /// Delay injected.
    DI = 7;
    /// Abort injected.
    FI = 8;
    /// Unauthorised by an external service.
    UAEX = 9;
    /// Downstream connection termination.
    DC = 10;
    /// Upstream retry limit exceeded.
    URX = 11;
    /// Stream idle timeout.
    SI = 12;
    /// Downstream protocol error.
    DPE = 13;
    /// Maximum duration of the connection or stream reached.
    DT = 14;
    /// Upstream protocol error.
    UPE = 15;
    /// Upstream cluster not found.
    NC = 16;
    /// Overload of the proxy.
    OM = 17;
}

impl Flags {
    /// With those of `other` as well.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut comma = "";
        for (flag, name) in Self::NAMES {
            if self.has(*flag) {
                write!(f, "{comma}{name}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_in_the_order_of_envoy() {
        assert_eq!(Flags::default().to_string(), "-");
        let (all, urx) = ([Flags::UF, Flags::UC, Flags::UT, Flags::UH], Flags::URX);
        for flag in all {
            assert_eq!(urx.with(flag).to_string(), format!("{flag},URX"));
        }
        assert_eq!(Flags::FI.with(Flags::DI).to_string(), "DI,FI");
        assert_eq!(Flags::DC.with(Flags::UC).to_string(), "UC,DC");
    }
}
