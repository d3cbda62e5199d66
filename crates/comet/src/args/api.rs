//! The flags of every command that calls a running server.

use std::path::PathBuf;

/// Where the calls of a server are.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Api {
    /// The server's push service: HOST:PORT, tls:HOST:PORT or unix:/PATH
    #[arg(long, global = true, default_value = "127.0.0.1:8083", value_name = "ADDR")]
    pub grpc: String,
    /// What opens it.
    #[command(flatten)]
    pub access: Access,
    /// With tls:HOST:PORT: the PEM certificate to show, where the server asks for one
    #[arg(long, global = true, value_name = "FILE", requires = "key_file")]
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(
        long = "key",
        id = "key_file",
        global = true,
        value_name = "FILE",
        requires = "certificate"
    )]
    pub private_key: Option<PathBuf>,
}

/// The server that is looked at.
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Monitored {
    /// The server's monitor.stat: HOST:PORT or tls:HOST:PORT [default: the first address of --config]
    #[arg(long, value_name = "ADDR")]
    pub server: Option<String>,
    /// The configuration file that names monitor.stat [default: the built-in 127.0.0.1:6972]
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    pub config: Option<PathBuf>,
    /// What opens it.
    #[command(flatten)]
    pub access: Access,
}

/// What opens a server, whichever of its addresses is asked.
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Access {
    /// The token that the server asks for (push.tokens, or monitor.tokens for stat and top), sent as
    /// "authorization: Bearer TOKEN"; @FILE reads it from a file
    #[arg(long, global = true, value_name = "TOKEN|@FILE")]
    pub token: Option<String>,
    /// With tls:HOST:PORT: PEM certificates to trust, instead of the system's authorities
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}
