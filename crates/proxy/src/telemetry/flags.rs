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

flags! {
    /// No healthy upstream host.
    UH = 0;
    /// Upstream connection failure.
    UF = 1;
    /// Upstream overflow (circuit breaking).
    UO = 2;
    /// No route configured.
    NR = 3;
    /// Upstream retry limit exceeded.
    URX = 4;
    /// Upstream cluster not found.
    NC = 5;
    /// Maximum duration of the connection or stream reached.
    DT = 6;
    /// Downstream connection termination.
    DC = 7;
    /// Upstream request timeout.
    UT = 8;
    /// Upstream remote reset.
    UR = 9;
    /// Upstream connection termination.
    UC = 10;
    /// Delay injected.
    DI = 11;
    /// Abort injected.
    FI = 12;
    /// Stream idle timeout.
    SI = 13;
    /// Downstream protocol error.
    DPE = 14;
    /// Upstream protocol error.
    UPE = 15;
    /// Overload of the proxy.
    OM = 16;
    /// Unauthorised by an external service.
    UAEX = 17;
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
