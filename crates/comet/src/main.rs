//! The comet push gateway: arguments, configuration, what was asked for, and the exit code.

use std::process::ExitCode;

use comet::args::{self, Command, EXIT_USAGE, Serve};
use comet::{helpers, output, run};
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
            let task = |config: &Config| run::logic(&serve, config);
            return configured(run::configure_logic(&serve), task);
        }
        Some(Command::Listen(listen)) => helpers::listen(listen).map(|()| 0),
        Some(Command::Push(push)) => helpers::push(push),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, 1),
    }
}

fn serve(serve: &Serve) -> ExitCode {
    configured(run::configure(serve), |config| match serve.check {
        true => check(config),
        false => run::serve(serve, config),
    })
}

/// Does what needs a configuration.
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
    let open_files = comet_net::probe().map_err(|error| error.to_string())?;
    if let Some(warning) = comet::too_few_open_files(config, open_files) {
        output::note(format_args!("comet: {warning}"));
    }
    comet::api_tls::load(config)?;
    let settings = config.to_toml();
    output::print(format_args!("{settings}\n{}", comet::worst_case(config, open_files)))?;
    Ok(0)
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    comet_ops::print_error(format!("comet: {error}\n"));
    ExitCode::from(code)
}
