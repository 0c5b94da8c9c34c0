/**
 * What Redis answers when it is there and does not do what it was asked. An answer, so no reason to
 * take the connection for half-open; docs/reliability.md has the same table with what each process does.
 *
 * @see https://redis.io/docs/latest/develop/reference/protocol-spec/ (simple errors)
 */

interface Refusal {
  /** Redis's own word for it, as in the log. */
  readonly kind: string;
  /** The command may be sent again as it is: Redis changes its mind without anybody changing a setting of ours. */
  readonly passes: boolean;
  /** What to do about it. */
  readonly remedy: string;
}

// An error of a command in a script or transaction stands behind another: "ERR Error running script …: -OOM …", "EXECABORT … because of: OOM …".
const TABLE: readonly (Refusal & { pattern: RegExp })[] = [
  {
    kind: 'READONLY',
    pattern: /(?:^|-|: )(?:READONLY|UNBLOCKED|MASTERDOWN)\b/,
    passes: true,
    remedy: 'This server is a replica now. Connections are made anew until REDIS_URL leads to a primary.',
  },
  {
    kind: 'MISCONF',
    pattern: /(?:^|-|: )MISCONF\b/,
    passes: true,
    remedy: 'Redis cannot save its data: see its log, and give its disk space or rights.',
  },
  {
    kind: 'OOM',
    pattern: /(?:^|-|: )OOM\b/,
    passes: true,
    remedy: 'Redis has used its maxmemory: raise it, or remove what fills it.',
  },
  { kind: 'LOADING', pattern: /(?:^|-|: )LOADING\b/, passes: true, remedy: 'Redis reads its data in. Wait.' },
  {
    kind: 'BUSY',
    pattern: /(?:^|-|: )BUSY\b/,
    passes: true,
    remedy: 'A script or function has run for too long: `SCRIPT KILL` or `FUNCTION KILL` ends it.',
  },
  {
    kind: 'NOREPLICAS',
    pattern: /(?:^|-|: )NOREPLICAS\b/,
    passes: true,
    remedy: 'Redis has fewer replicas than min-replicas-to-write says.',
  },
  {
    kind: 'CLUSTERDOWN',
    pattern: /(?:^|-|: )CLUSTERDOWN\b/,
    passes: true,
    remedy: 'Slots of the Cluster have no node: see CLUSTER INFO.',
  },
  {
    kind: 'TRYAGAIN',
    pattern: /(?:^|-|: )TRYAGAIN\b/,
    passes: true,
    remedy: 'Slots of the Cluster are on the move. Wait.',
  },
  {
    kind: 'MAXCLIENTS',
    pattern: /max number of clients (?:\+ cluster connections )?reached/i,
    passes: true,
    remedy: 'Redis has all the connections that its maxclients allows: raise it, or close some.',
  },
  {
    kind: 'CLUSTER',
    pattern: /(?:^|-|: )(?:MOVED|ASK|CROSSSLOT)\b/,
    passes: false,
    remedy: 'It is a node of a Cluster: set `redisCluster` (REDIS_CLUSTER=1).',
  },
  {
    kind: 'NO CLUSTER',
    pattern: /cluster support disabled/,
    passes: false,
    remedy: 'It is no node of a Cluster: leave `redisCluster` (REDIS_CLUSTER) out.',
  },
  {
    kind: 'DENIED',
    pattern: /(?:^|-|: )(?:NOAUTH|WRONGPASS|NOPERM)\b|ACL failure in script|^ERR (?:invalid password|AUTH )/,
    passes: false,
    remedy: 'See the user and password of REDIS_URL, and what ACL the user has.',
  },
];

/** Codes of Node and OpenSSL for a handshake that fails: another one would fail too. */
const TLS_CODE = /^(?:ERR_TLS_|ERR_SSL_|CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|HOSTNAME_MISMATCH)/;

const TLS_REFUSAL: Refusal = {
  kind: 'TLS',
  passes: false,
  remedy:
    'One side does not take the certificate of the other, or the port speaks no TLS: see the host and sslrootcert, sslcert and sslkey in REDIS_URL.',
};

/** @returns undefined: no refusal of the server's, such as a lost connection or a mistake in a command */
export function refusalOf(error: unknown): Refusal | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code } = error as NodeJS.ErrnoException;
  if (typeof code === 'string' && TLS_CODE.test(code)) return TLS_REFUSAL;
  return TABLE.find(({ pattern }) => pattern.test(error.message));
}
