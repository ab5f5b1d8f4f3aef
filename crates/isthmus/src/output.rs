//! Standard output of commands. Whoever reads it may stop to: `isthmus demo status | head -1` is no failure.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Prints a line.
macro_rules! outln {
    () => { $crate::output::write(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints text.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::write(format_args!($($text)*)) };
}

/// Writes to standard output; ends the program where that cannot be.
pub fn write(text: Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        end(&error);
    }
}

/// Nobody reads any more, which is their right; or the disk is full, which has to be said.
fn end(error: &io::Error) -> ! {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("Error: standard output cannot be written: {error}");
    std::process::exit(1);
}
