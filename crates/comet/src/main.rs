//! The comet push gateway: reads arguments and configuration, runs the command, and returns the exit code.

use std::process::ExitCode;

use comet::args::{self, Command, EXIT_USAGE, Serve};
use comet::preflight::{self, Preflight, Purpose};
use comet::{ctl, listen_command, manual, output, pusher, run, stat, top};
use comet_config::Config;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(stop) => {
            return stop.report().map_or_else(|error| fail(&error, 1), ExitCode::from);
        }
    };
    let done = match &args.command {
        None => return serve(&args.serve),
        Some(Command::Logic(logic)) => {
            let serve = logic.serve();
            return configured(run::configure_logic(&serve), |config| match logic.check {
                true => check_logic(config),
                false => run::logic(&serve, config),
            });
        }
        Some(Command::Listen(listen)) => listen_command::listen(listen).map(|()| 0),
        Some(Command::Push(push)) => pusher::push(push),
        Some(Command::Ctl(order)) => ctl::ctl(order),
        Some(Command::Stat(args)) => stat::stat(args).map_err(Into::into),
        Some(Command::Top(args)) => top::top(args).map_err(Into::into),
        Some(Command::Upgrade(args)) => comet::upgrade(args).map_err(Into::into),
        Some(Command::Manual { directory }) => {
            let named = |error| format!("{}: {error}", directory.display()).into();
            manual::write(directory).map(|()| 0).map_err(named)
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, 1),
    }
}

fn serve(serve: &Serve) -> ExitCode {
    if run::is_successor() && !serve.check {
        return match run::take_over(serve) {
            Ok(code) => ExitCode::from(code),
            Err((error, code)) => fail(&error, code),
        };
    }
    configured(run::configure(serve), |config| match serve.check {
        true => check(config),
        false => run::serve(serve, config),
    })
}

/// Runs a command that needs a configuration.
fn configured(
    config: Result<Config, String>,
    task: impl FnOnce(&Config) -> Result<u8, String>,
) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(mistakes) => return fail(&mistakes, EXIT_USAGE),
    };
    match task(&config) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, 1),
    }
}

fn check(config: &Config) -> Result<u8, String> {
    let Preflight { open_files, warnings } = preflight::server(config, Purpose::Check)?;
    warn(&warnings);
    let settings = config.to_toml();
    output::print(format_args!("{settings}\n{}", comet::worst_case(config, open_files)))?;
    Ok(0)
}

fn check_logic(config: &Config) -> Result<u8, String> {
    warn(&preflight::logic(config, Purpose::Check)?.warnings);
    output::print(config.to_toml().trim_end())?;
    Ok(0)
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        output::note(format_args!("comet: {warning}"));
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    comet_ops::print_error(format!("comet: {error}\n"));
    ExitCode::from(code)
}
