import { type IncomingMessage, request as requestHttp, type RequestOptions } from 'node:http';
import { request as requestHttps } from 'node:https';
import { buffer } from 'node:stream/consumers';
import type { Command } from 'commander';
import { describeError } from '../config/errors.js';
import { loadAdmin } from '../config/load.js';
import { readSecret } from '../config/secrets.js';
import { type Address, formatAddress, readAddress } from '../config/values.js';
import { responseTo } from '../streams/node-http.js';
import { failWith } from './fail.js';

/** The admin listener cannot be reached, or the server there is not a rufh-proxy. */
class AdminUnreachable extends Error {}

/** The admin listener refused the request. */
export class AdminRefused extends Error {
  constructor(
    message: string,
    readonly status: number,
    /** The response, which may say more. */
    readonly body: Json = {},
  ) {
    super(message);
  }
}

/** A JSON object with arbitrary members. */
export type Json = Readonly<Record<string, unknown>>;

/** Statuses with which the admin listener refuses. It never sends 502, which shows that the address is that of a client listener. */
const REFUSALS: ReadonlySet<number> = new Set([400, 401, 403, 404, 405, 409, 410, 422, 500, 503]);

const TIMEOUT_MS = 30_000;

/** Sends requests to the admin listener of a running proxy and returns the JSON of its responses. */
export class AdminClient {
  constructor(private readonly target: AdminTarget) {}

  /** `isExpected` detects the JSON of another API, which may answer at a wrong address. */
  async request(method: string, path: string, isExpected: (json: Json) => boolean = () => true): Promise<unknown> {
    const { status, type, body } = await this.send(method, path);
    if (status === 204) return undefined;
    const json = /^application\/(problem\+)?json\b/.test(type) ? parseJson(body) : undefined;
    const isOurs = json !== undefined && (status >= 300 ? REFUSALS.has(status) : isExpected(json));
    if (!isOurs)
      throw new AdminUnreachable(`${this.endpoint} is not the admin listener of a rufh-proxy. ${UNREACHABLE_ADVICE}`);
    if (status < 300) return json;
    const { detail, title } = json;
    if (status === 401) throw new AdminRefused(this.target.token === undefined ? NO_TOKEN : WRONG_TOKEN, status, json);
    throw new AdminRefused(
      typeof detail === 'string' ? detail : typeof title === 'string' ? title : `it answered ${status}`,
      status,
      json,
    );
  }

  private async send(method: string, path: string): Promise<{ status: number; type: string; body: string }> {
    try {
      const response = await this.exchange({ method, path, signal: AbortSignal.timeout(TIMEOUT_MS) });
      const body = await buffer(response);
      return { status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body: body.toString() };
    } catch (error) {
      const isForbidden = 'socketPath' in this.target && ['EACCES', 'EPERM'].includes(errorCode(error));
      const problem = isForbidden
        ? `this user may not connect to ${this.endpoint}`
        : describeNoResponse(error, this.endpoint);
      throw new AdminUnreachable(
        `${problem} (${errorCode(error)}). ${isForbidden ? PERMISSION_ADVICE : UNREACHABLE_ADVICE}`,
      );
    }
  }

  private exchange(requestOptions: RequestOptions): Promise<IncomingMessage> {
    const { target } = this;
    const authorization = target.token === undefined ? {} : { Authorization: `Bearer ${target.token}` };
    const options = { ...requestOptions, headers: authorization };
    const requestByScheme = 'url' in target && target.url.startsWith('https:') ? requestHttps : requestHttp;
    const request =
      'url' in target
        ? requestByScheme(target.url, options)
        : requestHttp({ ...options, socketPath: target.socketPath });
    request.end();
    return responseTo(request);
  }

  private get endpoint(): string {
    return 'url' in this.target ? this.target.url : `unix:${this.target.socketPath}`;
  }
}

const UNREACHABLE_ADVICE =
  'Is the proxy running, and is this its admin listener? The proxy logs the address in its "listening" line; pass it with --admin.';

const PERMISSION_ADVICE =
  'Run the command as the user of the proxy, or give your group access: admin.mode 0660, in a directory that the group may enter.';

const NO_TOKEN =
  'the admin listener requires a token: pass its file with --admin-token-file or RUFH_PROXY_ADMIN_TOKEN_FILE, or pass the ' +
  'proxy’s configuration with --config';
const WRONG_TOKEN =
  'the admin listener does not accept this token: it expects the one that admin.token_file contained when the proxy was started or reloaded';

/** Explains a failed request: a closed port, or a server that does not speak HTTP. */
function describeNoResponse(error: unknown, endpoint: string): string {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (endpoint.startsWith('https:') && /^(EPROTO$|ERR_SSL|ECONNRESET$)/.test(code))
    return `the server at ${endpoint} does not speak TLS; the admin listener speaks plain HTTP, so use http://…`;
  // Errors without a code are our own: a connection was made, but brought no response.
  if (code === '' || code.startsWith('HPE_') || code === 'ECONNRESET')
    return `the server at ${endpoint} does not answer in HTTP; it may speak TLS or another protocol`;
  return `nothing answers at ${endpoint}`;
}

function errorCode(error: unknown): string {
  const { code, name, message } = error as NodeJS.ErrnoException;
  return name === 'TimeoutError' ? `no answer within ${TIMEOUT_MS / 1000} s` : (code ?? message);
}

/** The JSON object in a body; undefined if it contains none. */
function parseJson(body: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'object' && value !== null ? (value as Json) : undefined;
  } catch {
    // The body is not JSON.
    return undefined;
  }
}

type AdminEndpoint = { readonly url: string } | { readonly socketPath: string };

/** Address of the admin listener, and the token if one is required. */
export type AdminTarget = AdminEndpoint & { readonly token?: string };

/** The places that can name the admin listener. */
export interface AdminSources {
  /** From the command line: a URL or an address. */
  readonly admin?: string;
  readonly adminTokenFile?: string;
  readonly config?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Resolves the admin listener from the command line, the variable, the configuration or the default, in this order. */
export function resolveAdminTarget({
  admin,
  adminTokenFile,
  config,
  env,
}: AdminSources): AdminTarget | { problem: string } {
  const file = config ?? (env['RUFH_PROXY_CONFIG'] || undefined);
  // Here the variable may be a URL, which `admin.address` does not allow; `false` is only valid as a setting.
  const { RUFH_PROXY_ADMIN: variable = '', ...others } = env;
  const given = admin ?? (variable === '' || variable === 'false' ? undefined : variable);
  const sources = { ...(file === undefined ? {} : { file }), env: given === undefined ? env : others };
  const loaded = loadAdmin({ ...sources, flags: {} });
  const endpoint =
    given === undefined
      ? endpointOf(loaded)
      : parseEndpoint(admin === undefined ? 'RUFH_PROXY_ADMIN' : '--admin', given);
  if ('problem' in endpoint) return endpoint;
  const tokenFile = adminTokenFile ?? (env['RUFH_PROXY_ADMIN_TOKEN_FILE'] || tokenFileOf(loaded));
  if (tokenFile === undefined) return endpoint;
  const read = readSecret(tokenFile);
  if ('problem' in read) return { problem: `cannot use the admin token: ${read.problem}` };
  return { ...endpoint, token: read.secret };
}

type Loaded = ReturnType<typeof loadAdmin>;

function endpointOf(loaded: Loaded): AdminEndpoint | { problem: string } {
  if ('configErrors' in loaded) return { problem: loaded.configErrors.map(describeError).join('\n  ') };
  if (!loaded.admin) return { problem: 'this configuration has no admin listener; set its address with "admin:"' };
  return toEndpoint(loaded.admin.address);
}

function tokenFileOf(loaded: Loaded): string | undefined {
  return 'configErrors' in loaded ? undefined : loaded.admin?.tokenFile;
}

function isUrl(text: string): boolean {
  return /^https?:\/\//i.test(text);
}

function parseEndpoint(source: string, text: string): AdminEndpoint | { problem: string } {
  const url = isUrl(text) && URL.canParse(text) ? new URL(text) : undefined;
  // Other programs write a Unix socket as http://unix:/path, so `unix` is not a host name here.
  if (url && url.hostname !== 'unix') return { url: url.origin };
  const address = url ? undefined : readAddress(text);
  if (address) return toEndpoint(address);
  return { problem: `${source}: found "${text}", expected ${ALLOWED_ADDRESSES}` };
}

const ALLOWED_ADDRESSES = 'a URL such as http://127.0.0.1:9090, HOST:PORT, or unix:/path for a Unix socket';

function toEndpoint(address: Address): AdminEndpoint | { problem: string } {
  if (address.kind === 'unix') return { socketPath: address.path };
  if (address.port === 0) {
    return {
      problem:
        'the admin listener picked a free port; the proxy logs it in its "listening" line, pass that address with --admin',
    };
  }
  return { url: `http://${formatAddress({ ...address, host: CONNECT_HOST[address.host] ?? address.host })}` };
}

/** Addresses to connect to when the proxy listens on a wildcard. */
const CONNECT_HOST: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

/** Flags that select the admin listener. */
export interface AdminFlags {
  readonly admin?: string;
  readonly adminTokenFile?: string;
  readonly config?: string;
}

/** Adds the flags that select the admin listener. */
export function addAdminOptions(command: Command): Command {
  return command
    .option('--admin <address>', 'admin listener, as URL, HOST:PORT or unix:/path [RUFH_PROXY_ADMIN]')
    .option('--admin-token-file <file>', 'file with the admin token, if one is required [RUFH_PROXY_ADMIN_TOKEN_FILE]')
    .option('-c, --config <file>', 'configuration file of the proxy, which contains both [RUFH_PROXY_CONFIG]');
}

/** Runs a command with a client. Exit code 1 if the proxy refuses the request, 2 if it cannot be reached. */
export async function withClient(flags: AdminFlags, act: (client: AdminClient) => Promise<void>): Promise<void> {
  const target = resolveAdminTarget({ ...flags, env: process.env });
  if ('problem' in target) {
    failWith(target.problem, 2);
    return;
  }
  try {
    await act(new AdminClient(target));
  } catch (error) {
    if (error instanceof AdminUnreachable) failWith(error.message, 2);
    else if (error instanceof AdminRefused) failWith(error.message, 1);
    else throw error;
  }
}
