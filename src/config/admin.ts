import ipaddr from 'ipaddr.js';
import * as z from 'zod';
import type { SettingIssue } from './errors.js';
import { exposedSecretWarnings, pathOrNull, resolveSecret, MIN_SECRET_LENGTH, secretFileErrors } from './secrets.js';
import { type Address, addressOrOff, boolean, fileMode, formatAddress, oneOf, text } from './values.js';

/** Address to which operators connect by default. */
const DEFAULT_ADMIN = '127.0.0.1:9090';

/** The groups of paths that `admin.open` can exempt from the token. `health`: `/healthz` and `/readyz`. */
const OPEN_PAGES = ['health', 'metrics'] as const;

/** The configuration of the admin listener. */
export interface AdminConfig {
  readonly address: Address;
  /** Required for every request that is not `open`; undefined: no token is required. */
  readonly token?: string;
  /** File with the token, even if it could not be read. */
  readonly tokenFile?: string;
  readonly open: readonly (typeof OPEN_PAGES)[number][];
  /** `Host` names accepted without the token, besides localhost and IP addresses. */
  readonly hosts: readonly string[];
  /** Allows an address beyond loopback without a token. */
  readonly insecure: boolean;
  /** Permissions of the file of a Unix socket. */
  readonly mode?: number;
}

const adminGroup = z.strictObject({
  address: addressOrOff().prefault(DEFAULT_ADMIN).describe('Address of the admin listener; `false` for none.'),
  token_file: pathOrNull()
    .prefault(null)
    .describe(
      `File with a token of at least ${MIN_SECRET_LENGTH} characters, which requests must send as \`Authorization: Bearer …\`. ` +
        '`null`: no token is required; then the address must be a loopback address or a Unix socket.',
    ),
  open: z
    .array(oneOf(OPEN_PAGES))
    .prefault(['health'])
    .describe(
      'Pages served without the token. `health`: `/healthz` and `/readyz`, for probes, which can rarely send one. ' +
        '`metrics`: `/metrics`.',
    ),
  hosts: z
    .array(text({ pattern: /^[A-Za-z0-9._-]{1,253}$/, allowed: 'a host name without a port', unit: 'host name' }))
    .prefault([])
    .describe(
      '`Host` names accepted in requests without the token, besides `localhost` and IP addresses. Others are refused, because ' +
        'a web page in the browser of an operator can make its own name resolve to this address.',
    ),
  insecure: boolean()
    .prefault(false)
    .describe(
      'Allow an address beyond loopback without a token: anyone who can reach it can read the metrics and cancel uploads.',
    ),
  mode: fileMode()
    .optional()
    .describe('Permissions of a Unix socket, as for `chmod`. Default `0600`: only its user may connect.'),
});

/** `admin`: an address, a group, or `false`. */
export const admin = z
  .union([addressOrOff(), adminGroup])
  .prefault(DEFAULT_ADMIN)
  .describe(
    'Health checks, metrics and upload administration, on a separate listener. An address, a group as ' +
      'below, or `false` for none.',
  );

type AdminSettings = z.output<typeof admin>;

/** The configuration of the admin listener; undefined if it is disabled. */
export function toAdmin(settings: AdminSettings): AdminConfig | undefined {
  const group = adminGroupOf(settings);
  if (group.address === false) return undefined;
  const token = resolveSecret(null, group.token_file);
  return {
    address: group.address,
    ...(token === undefined ? {} : { token }),
    ...(group.token_file === null ? {} : { tokenFile: group.token_file }),
    open: group.open,
    hosts: group.hosts,
    insecure: group.insecure,
    ...(group.mode === undefined ? {} : { mode: group.mode }),
  };
}

/** Finds the settings in `admin` that contradict each other. */
export function adminCrossChecks(settings: AdminSettings): SettingIssue[] {
  const { address, token_file: file, insecure, mode } = adminGroupOf(settings);
  if (address === false) return [];
  const exposed = `${formatAddress(address)} can be reached from other machines, where anyone could cancel uploads; ${HOW_TO_PROTECT}`;
  const token = resolveSecret(null, file) ?? '';
  const unsendable = `${file} contains characters that a header field cannot carry; use visible ASCII characters only`;
  const issues = [
    ...secretFileErrors('token', null, file, { min: MIN_SECRET_LENGTH }),
    ...(/[^!-~]/.test(token) ? [{ path: ['token_file'], problem: unsendable }] : []),
    ...(file === null && !insecure && !isPrivate(address) ? [{ path: ['address'], problem: exposed }] : []),
    ...(mode !== undefined && address.kind === 'tcp' ? [{ path: ['mode'], problem: MODE_NEEDS_UNIX_SOCKET }] : []),
  ];
  return issues.map(({ path, problem }) => ({ path: ['admin', ...path], problem }));
}

/** Finds settings in `admin` that are valid but probably not intended. */
export function adminWarnings(settings: AdminSettings): SettingIssue[] {
  const { address, token_file: file, insecure } = adminGroupOf(settings);
  if (address === false) return [];
  const isNeedless = insecure && (file !== null || isPrivate(address));
  return [
    ...exposedSecretWarnings(['admin', 'token_file'], file),
    ...(isNeedless ? [{ path: ['admin', 'insecure'], problem: INSECURE_IS_NEEDLESS }] : []),
  ];
}

const INSECURE_IS_NEEDLESS =
  'has no effect, because a token is set or no other machine can reach the address; remove it';

const HOW_TO_PROTECT =
  'set `token_file`, use a loopback address or a Unix socket, or set `insecure: true` if its network is private';

/** The problem of `mode` on a TCP listener. */
export const MODE_NEEDS_UNIX_SOCKET =
  'applies to Unix sockets only: a TCP port has no permissions, so anyone who can reach it can connect';

/** Whether no other machine can reach the address. A name may resolve to any address, so it counts as reachable. */
function isPrivate(address: Address): boolean {
  if (address.kind === 'unix' || address.host.toLowerCase() === 'localhost') return true;
  return isLoopbackAddress(address.host);
}

/** Whether an IP address, in any notation, is a loopback address. */
export function isLoopbackAddress(host: string): boolean {
  return ipaddr.isValid(host) && ipaddr.process(host).range() === 'loopback';
}

/** The settings of the admin listener as a group, however they are written. */
export function adminGroupOf(settings: AdminSettings): z.output<typeof adminGroup> {
  const isGroup = settings !== false && 'address' in settings;
  return isGroup ? settings : { ...adminGroup.parse({}), address: settings };
}
