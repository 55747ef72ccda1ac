import type { HeaderLine } from '../../src/model/headers.js';
import { connect, type RawClient, requestOnce } from './client.js';
import {
  appendLines,
  clientDialect,
  type ClientDialect,
  creationLines,
  progressOf,
  versionLines,
} from './resumable-client.js';
import {
  type CampaignContext,
  type CampaignEvent,
  type CampaignOrigin,
  type Chance,
  type Creation,
  digestField,
  type UploadPlan,
} from './campaign-plan.js';
import { sha256 } from './temporary.js';
import { isCut, type ResponseHead, type WireRequest, type WireResponse } from './wire.js';

/** What one request carries. */
interface Part {
  readonly start: number;
  readonly end: number;
  readonly complete: boolean;
  /** The offset was not asked for. */
  readonly isGuess: boolean;
}

const PIECE = 128 * 1024;
const COME_AGAIN_MS = 300;

/** A client that brings its file home whatever happens to the proxy, and holds the proxy to every word it said. */
export class CampaignClient {
  readonly creations: Creation[] = [];
  /** The origin's answer, once it is here. */
  answer: WireResponse | undefined;
  private readonly dialect: ClientDialect;
  step: 'creating' | 'appending' | 'completing' | 'asking' | 'over' = 'asking';
  private readonly history: string[] = [];
  target: string | undefined;
  private requests = 0;
  /** After so many it gives up; not once it has had its answer. */
  private patience: number;
  isCancelled = false;
  /** The largest offset we were shown. */
  private shown = 0;
  private connection: RawClient | undefined;
  /** The connection we broke ourselves. */
  private left: RawClient | undefined;
  /** A guess of ours was refused: now we ask. */
  private wasWrong = false;
  /** The campaign's disturbances when the request under way began. */
  private before = 0;
  private isCompleting = false;
  /** Answers that said to come again. */
  turnedAway = 0;

  constructor(
    readonly plan: UploadPlan,
    private readonly context: CampaignContext,
  ) {
    this.dialect = clientDialect(plan.dialect);
    this.patience = plan.patience;
  }

  /** Fulfilled when the origin's answer is here, or nobody wants it any more; rejects when the proxy breaks a promise. */
  async run(): Promise<void> {
    while (!this.answer && !this.isCancelled) await this.tryOnce();
  }

  /** As if the answer had been lost: it has to be given again. What was cancelled has to stay so. */
  async askAgain(): Promise<void> {
    const first = this.answer;
    if (this.isCancelled) return this.checkCancelled();
    if (this.target === undefined) throw this.broken('its URL was never told');
    this.answer = undefined;
    this.patience = Infinity;
    await this.run();
    if (text(this.answer!) !== text(first!)) throw this.broken(`another answer than before: ${text(first!)}`);
  }

  /** The network breaks its connection. */
  cutOff(): void {
    if (this.connection) this.leave(this.connection);
  }

  /** Something the proxy must never do. */
  broken(what: string): Error {
    const { bytes, ...plan } = this.plan;
    return new Error([what, JSON.stringify({ ...plan, size: bytes.length }), ...this.history.slice(-40)].join('\n  '));
  }

  private async tryOnce(): Promise<void> {
    const { plan, context: context } = this;
    const url = await context.url();
    this.before = context.disturbances;
    this.step = 'asking';
    this.isCompleting = false;
    let patience: NodeJS.Timeout | undefined;
    try {
      const client = (this.connection = await connect(url, { deadlineMs: 30_000 + (plan.tryMs ?? 0) }));
      if (plan.tryMs !== undefined) patience = setTimeout(() => this.leave(client), plan.tryMs);
      await this.takeStep(client, new URL(url).port);
    } catch (error) {
      this.endure(error);
    } finally {
      clearTimeout(patience);
      this.connection?.destroy();
      this.connection = undefined;
    }
  }

  private takeStep(client: RawClient, port: string): Promise<void> {
    this.history.push(`${new Date().toISOString().slice(14, 23)} at ${port}`);
    if (this.target === undefined) return this.create(client);
    if (this.requests++ < this.patience) return this.goOn(client, this.target);
    return this.cancel(client, this.target);
  }

  private endure(error: unknown): void {
    const wasUs = this.connection !== undefined && this.connection === this.left;
    this.history.push(`${String(error)}${this.isDisturbed ? ', something was broken' : ''}`);
    if (!isCut(error)) throw error;
    if (!this.isDisturbed && !wasUs) throw this.broken('the connection broke although nobody died');
    if (this.isCompleting) this.creations.at(-1)!.unheard++;
  }

  private get isDisturbed(): boolean {
    return this.context.disturbances !== this.before;
  }

  private async create(client: RawClient): Promise<void> {
    const { plan, dialect } = this;
    const marker = `${plan.name}.${this.creations.length}`;
    this.creations.push({ marker, toldUnknown: 0, unheard: 0 });
    const end = plan.firstPart;
    const complete = end === plan.bytes.length && !plan.emptyEnd;
    const length = plan.tellsLength ? plan.bytes.length : undefined;
    const headers: HeaderLine[] = [...creationLines(dialect, { complete, length }), ['X-Creation', marker]];
    if (plan.reprDigest) headers.push(['Repr-Digest', digestField(plan.bytes)]);
    if (plan.wantsDigest) headers.push(['Want-Repr-Digest', 'sha-256=1']);
    const target = `/${plan.isEager ? 'eager' : 'files'}/${plan.name}`;
    const request = { method: plan.method, target, headers };
    this.step = 'creating';
    await this.transfer(client, request, { start: 0, end, complete, isGuess: false });
  }

  private async goOn(client: RawClient, target: string): Promise<void> {
    const { plan, dialect, context: context } = this;
    const isGuess = !this.wasWrong && context.chance.happens(plan.hasty);
    const start = isGuess ? this.shown : await this.retrieve(client, target);
    if (start === undefined) return;
    const end = Math.min(start + plan.pieceSize, plan.bytes.length);
    const complete = end === plan.bytes.length && (!plan.emptyEnd || start === end);
    const headers = appendLines(dialect, { offset: start, complete });
    this.step = 'appending';
    await this.transfer(client, { method: 'PATCH', target, headers }, { start, end, complete, isGuess });
  }

  /** A repeated cancellation may find that the first one, whose answer was lost, has worked. */
  private async cancel(client: RawClient, target: string): Promise<void> {
    await client.sendRequest({ method: 'DELETE', target, headers: versionLines(this.dialect) });
    const response = await this.read(client, 'DELETE');
    if (this.isTurnedAway(response)) return this.comeAgain();
    const isRepeated = this.requests > this.patience + 1;
    if (response.status !== 204 && !(isRepeated && response.status === 404))
      throw this.broken(`DELETE got ${response.status}`);
    this.isCancelled = true;
    this.step = 'over';
  }

  private async checkCancelled(): Promise<void> {
    const head = { method: 'HEAD', target: this.target!, headers: versionLines(this.dialect) };
    const url = await this.context.url();
    this.before = this.context.disturbances;
    const response = await requestOnce(url, head, { deadlineMs: 30_000 });
    // A node may still be on its way back from what hit it last.
    if (this.isTurnedAway(response)) return this.comeAgain().then(() => this.checkCancelled());
    if (response.status !== 404) throw this.broken(`cancelled, but HEAD got ${response.status}`);
  }

  private async retrieve(client: RawClient, target: string): Promise<number | undefined> {
    await client.sendRequest({ method: 'HEAD', target, headers: versionLines(this.dialect) });
    const response = await this.read(client, 'HEAD');
    if (this.isTurnedAway(response)) return this.comeAgain();
    const { offset, complete } = progressOf(this.dialect, response);
    if (response.status !== 204 || offset === undefined) throw this.broken(`HEAD got ${response.statusLine}`);
    if (complete === true && offset !== this.plan.bytes.length) throw this.broken('complete, but not whole');
    const digest = response.header('Repr-Digest');
    if (digest !== undefined && digest !== digestField(this.plan.bytes.subarray(0, offset)))
      throw this.broken(`a wrong digest of ${offset} bytes: ${digest}`);
    return offset;
  }

  private async transfer(client: RawClient, request: WireRequest, part: Part): Promise<void> {
    const body = this.plan.bytes.subarray(part.start, part.end);
    const headers = [...(request.headers ?? [])];
    headers.push(this.plan.chunked ? ['Transfer-Encoding', 'chunked'] : ['Content-Length', `${body.length}`]);
    if (this.plan.contentDigest) headers.push(['Content-Digest', digestField(body)]);
    this.history.push(`${request.method} ${part.start}–${part.end} ${part.complete ? 'complete' : 'more to come'}`);
    this.isCompleting = part.complete;
    const reading = this.read(client, request.method);
    const [response] = await Promise.all([reading, this.send(client, { ...request, headers }, body, part.complete)]);
    this.isCompleting = false;
    await this.judge(response, part);
  }

  private async send(client: RawClient, request: WireRequest, body: Buffer, isLast: boolean): Promise<void> {
    const { plan, context: context } = this;
    const leavesAfter = context.chance.happens(plan.leaving) ? context.chance.below(2 * body.length) : Infinity;
    await client.sendHead(request.method, request.target, request.headers);
    for (let at = 0; at < body.length && !client.socket.destroyed; at += PIECE) {
      if (at > leavesAfter) return this.leave(client);
      const piece = body.subarray(at, at + PIECE);
      await (plan.chunked ? client.sendChunk(piece) : client.send(piece));
      context.notice('bytes', piece.length);
      if (plan.pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, plan.pauseMs));
    }
    if (plan.chunked) await client.endChunks();
    this.step = isLast ? 'completing' : this.step;
    if (isLast) context.notice('last-byte');
    if (leavesAfter < Infinity) this.leave(client);
  }

  private leave(client: RawClient): void {
    this.left = client;
    this.history.push('the client leaves');
    client.reset();
  }

  private read(client: RawClient, method: string): Promise<WireResponse> {
    return client.readFinal((head) => this.note(head, method));
  }

  /** Whatever says an offset acknowledges it: RUFH §4.3.2, it never goes down. */
  private note(head: ResponseHead, method: string): void {
    const { offset, location } = progressOf(this.dialect, head);
    this.history.push(`${method} ← ${head.statusLine} ${offset === undefined ? '' : `offset ${offset}`}`);
    const isOurs = head.status === 104 || head.header('X-Got') === undefined;
    if (isOurs && location !== undefined && method !== 'PATCH') {
      const { pathname } = new URL(location);
      if (this.target !== undefined && this.target !== pathname) throw this.broken('the upload has moved');
      this.target = pathname;
      this.context.notice('announced');
    }
    if (offset === undefined) return;
    if (offset < this.shown) throw this.broken(`offset ${offset} after ${this.shown} was shown`);
    if (offset > this.plan.bytes.length) throw this.broken(`offset ${offset} is beyond the end`);
    this.shown = offset;
    if (offset > 0) this.context.notice('acknowledged');
  }

  private async judge(response: WireResponse, part: Part): Promise<void> {
    const { status, body } = response;
    const creation = this.creations.at(-1)!;
    const got = response.header('X-Got');
    if (got !== undefined) return this.take(response, got, creation.marker);
    // A request that we gave up may have gone on at a node that was paused, and changed what we were told since.
    const mayBeLate = this.context.hasParts && this.isDisturbed;
    this.wasWrong = (part.isGuess || mayBeLate) && (status === 409 || status === 400);
    if (this.wasWrong) return;
    const isUnknownOutcome = status >= 502 && status <= 504 && body.includes('may have taken it');
    if (isUnknownOutcome && this.plan.method === 'POST') creation.toldUnknown++;
    else if (this.isTurnedAway(response)) await this.comeAgain();
    else if (part.complete || (status !== 201 && status !== 204)) throw this.broken(`answered with ${text(response)}`);
    else if (this.shown !== part.end) throw this.broken(`${part.end} bytes arrived, but ${this.shown} are shown`);
  }

  private isTurnedAway(response: WireResponse): boolean {
    const saysWhen = response.status >= 502 && /^[1-9]\d*$/.test(response.header('Retry-After') ?? '');
    return this.context.hasParts && this.isDisturbed && saysWhen;
  }

  /** Sooner than we were told to: that must not hurt either. */
  private async comeAgain(): Promise<undefined> {
    this.turnedAway++;
    await new Promise((resolve) => setTimeout(resolve, COME_AGAIN_MS));
  }

  private take(response: WireResponse, got: string, marker: string): void {
    const { plan } = this;
    const { status, body } = response;
    if (got !== `${marker} ${plan.sha256}`) throw this.broken(`this is the answer to another upload: ${got}`);
    if (status !== plan.status) throw this.broken(`${status} instead of ${plan.status}`);
    if (status !== 204 && body.length !== plan.answerSize) throw this.broken(`an answer of ${body.length} bytes`);
    this.answer = response;
    this.step = 'over';
    this.context.notice('answered');
  }
}

function text({ status, body, headerLines }: WireResponse): string {
  const told = headerLines.filter(([name]) => /^x-(got|serial)$/i.test(name));
  return `${status} ${JSON.stringify(told)} ${body.length > 500 ? sha256(body) : body.toString('latin1')}`;
}

/** What came of the uploads of a campaign. */
export interface CampaignFigures {
  readonly uploads: number;
  readonly cancelled: number;
  readonly mebibytes: number;
  readonly requestsAtOrigin: number;
  readonly turnedAway: number;
  readonly toldUnknown: number;
  readonly unheard: number;
}

/** Uploads without end, while a subclass breaks what they need. Rejects with the first promise that was broken. */
export abstract class Campaign implements CampaignContext {
  abstract readonly hasParts: boolean;
  abstract readonly disturbances: number;
  protected over = false;

  protected constructor(
    readonly chance: Chance,
    protected readonly origin: CampaignOrigin,
  ) {}

  abstract url(): Promise<string>;

  abstract notice(event: CampaignEvent, count?: number): void;

  /** Clients side by side in so many lanes, each lane one client after the other. */
  protected uploadInLanes(lanes: number): Promise<void>[] {
    return Array.from({ length: lanes }, async () => {
      while (!this.over) {
        const client = new CampaignClient(this.chance.upload(), this);
        this.origin.expect(client);
        await client.run().catch((error: unknown) => this.explain(client, error));
        if (client.answer && this.chance.happens(0.3)) await this.askAgain(client);
      }
    });
  }

  /** Every answer that was given is given again. */
  protected async askAllAgain(): Promise<void> {
    for (const client of this.origin.clients) await this.askAgain(client);
  }

  /** What is known of a client whose promise was broken. */
  protected explain(_client: CampaignClient, error: unknown): never {
    throw error;
  }

  protected figures(): CampaignFigures {
    const { clients, requests } = this.origin;
    const creations = clients.flatMap((client) => client.creations);
    return {
      uploads: clients.length,
      cancelled: clients.filter(({ isCancelled }) => isCancelled).length,
      mebibytes: Math.round(clients.reduce((sum, { plan }) => sum + plan.bytes.length, 0) / 2 ** 20),
      requestsAtOrigin: requests,
      turnedAway: clients.reduce((sum, { turnedAway }) => sum + turnedAway, 0),
      toldUnknown: creations.reduce((sum, { toldUnknown }) => sum + toldUnknown, 0),
      unheard: creations.reduce((sum, { unheard }) => sum + unheard, 0),
    };
  }

  private async askAgain(client: CampaignClient): Promise<void> {
    await client.askAgain().catch((error: unknown) => this.explain(client, error));
  }
}
