//! The location of a Redis server: an address, or a master known to sentinels.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, TlsCertificates,
};
use tokio::task::JoinSet;

/// The port of a sentinel whose address names none.
const SENTINEL_PORT: u16 = 26_379;

/// How to reach a server.
pub(super) struct Endpoint {
    name: String,
    source: Source,
    ca: Option<Vec<u8>>,
    config: AsyncConnectionConfig,
}

enum Source {
    Address(Client),
    /// The master of that name, with this login.
    Sentinels {
        sentinels: Vec<Client>,
        master: String,
        login: RedisConnectionInfo,
        is_tls: bool,
    },
}

impl Endpoint {
    /// `url` is `redis://[user:password@]host[:port][/database]`, or `rediss://` with TLS, or
    /// `redis+sentinel://[user:password@]host[:port],.../master[/database]`, or `rediss+sentinel://`.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub(super) fn new(url: &str, ca: Option<&[u8]>, timeout: Duration) -> Result<Self, String> {
        // The kernel detects a server that disappears silently.
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(timeout.max(Duration::from_secs(1))))
            .set_user_timeout(timeout);
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(timeout).set_tcp_settings(tcp);
        let ca = ca.map(<[u8]>::to_vec);
        let (name, source) = match url.split_once("+sentinel://") {
            Some((scheme, rest)) => of_sentinels(scheme, rest, ca.as_deref())?,
            None => {
                let info = info(url)?;
                let name = format!("{}/{}", info.addr, info.redis.db);
                let client =
                    client(info, ca.as_deref()).map_err(|error| format!("{name}: {error}"))?;
                (name, Source::Address(client))
            }
        };
        Ok(Self { name, source, ca, config })
    }

    /// Address and database, or master and database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        match &self.source {
            Source::Address(client) => {
                client.get_multiplexed_async_connection_with_config(&self.config).await
            }
            Source::Sentinels { sentinels, master, login, is_tls } => {
                let (host, port) = self.ask(sentinels, master).await?;
                let addr = match is_tls {
                    true => {
                        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
                    }
                    false => ConnectionAddr::Tcp(host, port),
                };
                let info = ConnectionInfo { addr, redis: login.clone() };
                let client = client(info, self.ca.as_deref())?;
                client.get_multiplexed_async_connection_with_config(&self.config).await
            }
        }
    }

    /// The address of the master, from the first sentinel that knows it.
    async fn ask(&self, sentinels: &[Client], master: &str) -> RedisResult<(String, u16)> {
        let mut asked = JoinSet::new();
        for sentinel in sentinels {
            let (sentinel, config) = (sentinel.clone(), self.config.clone());
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(master);
            asked.spawn(async move {
                let connecting = sentinel.get_multiplexed_async_connection_with_config(&config);
                let address: Option<(String, u16)> =
                    question.query_async(&mut connecting.await?).await?;
                RedisResult::Ok(address)
            });
        }
        let mut failure =
            (ErrorKind::MasterNameNotFoundBySentinel, "no sentinel knows the master").into();
        while let Some(answer) = asked.join_next().await {
            match answer.expect("asking does not panic") {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// `[user:password@]host[:port],.../master[/database]`
fn of_sentinels(scheme: &str, rest: &str, ca: Option<&[u8]>) -> Result<(String, Source), String> {
    let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (master, database) = path.split_once('/').unwrap_or((path, "0"));
    if master.is_empty() {
        return Err(format!(
            "{scheme}+sentinel://{hosts} names no master: write /MASTER behind it"
        ));
    }
    // The library reads login and database of an address like any other.
    let RedisConnectionInfo { db, username, password, protocol } =
        info(&format!("{scheme}://{login}@localhost/{database}"))?.redis;
    let login = RedisConnectionInfo { db, username, password, protocol };
    let sentinel = |host: &str| -> Result<Client, String> {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
        let info = info(&format!("{scheme}://{host}{port}"))?;
        client(info, ca).map_err(|error| format!("{host}: {error}"))
    };
    let sentinels = hosts.split(',').map(sentinel).collect::<Result<_, _>>()?;
    let name = format!("{master}/{db}");
    let (master, is_tls) = (master.to_owned(), scheme == "rediss");
    Ok((name, Source::Sentinels { sentinels, master, login, is_tls }))
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info()
        .map_err(|error| format!("an address of a session store is no URL: {error}"))
}

fn client(info: ConnectionInfo, ca: Option<&[u8]>) -> RedisResult<Client> {
    match (&info.addr, ca) {
        (ConnectionAddr::TcpTls { .. }, Some(ca)) => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) };
            Client::build_with_tls(info, certificates)
        }
        _ => Client::open(info),
    }
}
