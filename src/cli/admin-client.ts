import { request as requestHttp, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as requestHttps } from 'node:https';
import { buffer } from 'node:stream/consumers';
import { answerTo } from '../streams/answer-to.js';
import type { AdminTarget } from './admin-address.js';

/** Nobody answers there, or not a proxy. */
export class AdminUnreachable extends Error {}

/** The admin listener answered, but did not do what was asked. */
export class AdminRefused extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** An object of JSON, with members of any kind. */
export type Json = Readonly<Record<string, unknown>>;

/** With these the admin listener refuses. A 502 is of a listener for clients, whose port was given by mistake. */
const REFUSALS: ReadonlySet<number> = new Set([400, 401, 403, 404, 405, 409, 410, 500, 503]);

const PATIENCE_MS = 30_000;

/** Asks the admin listener of a running proxy and gives the JSON it answers with. */
export class AdminClient {
  constructor(private readonly target: AdminTarget) {}

  /** `looksRight` tells the JSON of our admin listener from that of another API: any may answer at a wrong address. */
  async ask(method: string, path: string, looksRight: (told: Json) => boolean = () => true): Promise<unknown> {
    const { status, type, body } = await this.send(method, path);
    if (status === 204) return undefined;
    const told = /^application\/(problem\+)?json\b/.test(type) ? parsed(body) : undefined;
    const isOurs = told !== undefined && (status >= 300 ? REFUSALS.has(status) : looksRight(told));
    if (!isOurs) throw new AdminUnreachable(`${this.place} is not the admin listener of a rufh-proxy. ${ADVICE}`);
    if (status < 300) return told;
    const { detail, title } = told;
    if (status === 401) throw new AdminRefused(this.target.token === undefined ? NO_TOKEN : WRONG_TOKEN, status);
    throw new AdminRefused(
      typeof detail === 'string' ? detail : typeof title === 'string' ? title : `it answered ${status}`,
      status,
    );
  }

  private async send(method: string, path: string): Promise<{ status: number; type: string; body: string }> {
    try {
      const response = await this.exchange({ method, path, signal: AbortSignal.timeout(PATIENCE_MS) });
      const body = await buffer(response);
      return { status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body: body.toString() };
    } catch (error) {
      const isClosed = 'socketPath' in this.target && ['EACCES', 'EPERM'].includes(reason(error));
      const told = isClosed ? `this user may not connect to ${this.place}` : silence(error, this.place);
      throw new AdminUnreachable(`${told} (${reason(error)}). ${isClosed ? CLOSED_ADVICE : ADVICE}`);
    }
  }

  private exchange(asked: RequestOptions): Promise<IncomingMessage> {
    const { target } = this;
    const authorization = target.token === undefined ? {} : { Authorization: `Bearer ${target.token}` };
    const options = { ...asked, headers: authorization };
    const send = 'url' in target && target.url.startsWith('https:') ? requestHttps : requestHttp;
    const request =
      'url' in target ? send(target.url, options) : requestHttp({ ...options, socketPath: target.socketPath });
    request.end();
    return answerTo(request);
  }

  private get place(): string {
    return 'url' in this.target ? this.target.url : `unix:${this.target.socketPath}`;
  }
}

const ADVICE =
  'Does the proxy run, and is its admin listener there? Its line "listening" tells the address: give it with --admin.';

const CLOSED_ADVICE =
  'Ask as the user of the proxy, or let your group in: admin.mode 0660, and a directory that the group may enter.';

const NO_TOKEN =
  'the admin listener asks for a token: name its file with --admin-token-file or RUFH_PROXY_ADMIN_TOKEN_FILE, or give the ' +
  'proxy’s configuration with --config';
const WRONG_TOKEN =
  'the admin listener does not take this token: it knows the one that its admin.token_file held when the proxy was started';

/** The words for an exchange without an answer: a port that speaks something else is told apart from a closed one. */
function silence(error: unknown, place: string): string {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (place.startsWith('https:') && /^(EPROTO$|ERR_SSL|ECONNRESET$)/.test(code))
    return `what listens at ${place} does not speak TLS: the admin listener speaks HTTP, as http://…`;
  // Errors of ours have no code: there was a connection, and no answer came of it.
  if (code === '' || code.startsWith('HPE_') || code === 'ECONNRESET')
    return `what listens at ${place} gives no answer of HTTP: it speaks TLS, or something else`;
  return `nothing answers at ${place}`;
}

function reason(error: unknown): string {
  const { code, name, message } = error as NodeJS.ErrnoException;
  return name === 'TimeoutError' ? `no answer within ${PATIENCE_MS / 1000} s` : (code ?? message);
}

/** Of a problem what it says (RFC 9457); of anything else nothing that concerns us here. */
function parsed(body: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'object' && value !== null ? (value as Json) : undefined;
  } catch {
    // Whatever it is, it is no JSON.
    return undefined;
  }
}
