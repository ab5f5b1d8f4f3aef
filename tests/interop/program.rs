//! Running the programs of others.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::Output;

/// Runs a program in a directory and gives it standard input.
pub fn run_with(dir: &Path, argv: &[&str], input: &str) -> Output {
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; run tests/interop/install.sh", argv[0]));
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has seen enough of its input is no failure.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("a child can be waited for");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that has to succeed.
pub fn run(dir: &Path, argv: &[&str]) -> Output {
    let output = run_with(dir, argv, "");
    assert_eq!(output.code, 0, "{argv:?}: {output}");
    output
}

/// Runs a command line of openssl that has to succeed.
pub fn openssl(dir: &Path, arguments: &str) -> Output {
    let argv: Vec<&str> = ["openssl"]
        .into_iter()
        .chain(arguments.split_whitespace())
        .collect();
    run(dir, &argv)
}

/// Runs this binary.
pub fn isthmus(dir: &Path, arguments: &str) -> Output {
    let argv: Vec<&str> = [env!("CARGO_BIN_EXE_isthmus")]
        .into_iter()
        .chain(arguments.split_whitespace())
        .collect();
    run_with(dir, &argv, "")
}
