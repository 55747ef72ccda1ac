import { exchangeOver, openRequest } from './client.js';
import { type ProxyProcess, startProxy } from './proxy-process.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from './raw-origin.js';
import { appendLines, clientDialect, creationLines, progressOf, ResumableUpload } from './resumable-client.js';
import { randomBytes, seededRandom, serverPort } from './temporary.js';
import type { WireResponse } from './wire.js';

/** Where a delivery stands when its process is killed, as the origin sees it. */
const MOMENTS = ['created', 'request', 'half', 'whole', 'answering', 'answered'] as const;
type Moment = (typeof MOMENTS)[number];

const CONFIG = `
delivery:
  wait: 5s
  retry: { first_delay: 5ms, longest_delay: 20ms }
routes:
  - { match: { path: /often/** }, delivery: { guarantee: at_least_once } }
  - { match: { path: /once/** }, delivery: { guarantee: at_most_once } }
`;
const BYTES = randomBytes(300_000, 5);
const UPLOADS_A_ROUND = 3;
const dialect = clientDialect('10');

/** One client with one upload, and what it came to. */
interface DeliveryClient {
  readonly target: string;
  url?: string;
  /** How often it completed the upload after it was told that this sends it once more. */
  permitted: number;
  knows: boolean;
  answer?: string;
}

/** Kills the proxy at every boundary of a delivery, while clients go on until they have their answer. */
export class DeliveryCampaign {
  readonly broken: string[] = [];
  readonly kills: Record<string, number> = {};
  answered = 0;
  private readonly random: () => number;
  private moment: Moment | undefined;
  private dying: Promise<unknown> | undefined;
  private count = 0;

  private constructor(
    seed: number,
    private readonly origin: RawOrigin,
    private proxy: ProxyProcess,
  ) {
    this.random = seededRandom(seed);
    origin.setScript((exchange) => this.play(exchange));
  }

  static async open(seed: number): Promise<DeliveryCampaign> {
    const origin = await startRawOrigin();
    try {
      // It is killed and comes back at the same address, which nobody may get meanwhile.
      const listen = `127.0.0.1:${await serverPort()}`;
      return new DeliveryCampaign(seed, origin, await startProxy({ origin: origin.url, listen, config: CONFIG }));
    } catch (error) {
      await origin.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.proxy.stop();
    await this.origin.close();
  }

  async round(number: number): Promise<void> {
    this.moment = MOMENTS[number % MOMENTS.length]!;
    const clients = ['once', 'often'].flatMap((route) =>
      Array.from({ length: UPLOADS_A_ROUND }, (): DeliveryClient => {
        return { target: `/${route}/${this.count++}`, permitted: 0, knows: false };
      }),
    );
    await Promise.all(clients.map((client) => this.create(client)));
    await this.dying;
    if (!this.dying) await this.kill();
    this.dying = undefined;
    this.proxy = await this.proxy.restart();
    for (const client of clients) await this.finish(client);
  }

  private async create(client: DeliveryClient): Promise<void> {
    const headers = creationLines(dialect, { complete: true, length: BYTES.length });
    const request = await openRequest('HTTP/1.1', this.proxy.url, { method: 'POST', target: client.target, headers });
    try {
      client.url = (await request.readInterim()).header('location');
      this.reached('created');
      await request.send(BYTES);
      await request.end();
      this.note(client, await request.readFinal());
    } catch {
      // Its connection is gone with the proxy: that is the point.
    } finally {
      await request.close();
    }
  }

  /** Goes on until the upload has its answer, and makes sure that there is only one. */
  private async finish(client: DeliveryClient): Promise<void> {
    for (let asked = 0; client.url !== undefined && asked < 50; asked++) {
      const response = await this.complete(client);
      if (response.status === 201) break;
    }
    if (client.url !== undefined) await this.complete(client);
    const whole = this.wholeRequests(client.target);
    const isOnce = client.target.startsWith('/once/');
    if (isOnce && whole > 1 + client.permitted) this.broken.push(`${client.target}: ${whole} whole requests`);
    if (client.url !== undefined && client.answer === undefined) this.broken.push(`${client.target}: no answer`);
    if (client.answer !== undefined) this.answered++;
  }

  private async complete(client: DeliveryClient): Promise<WireResponse> {
    const send = (request: Parameters<typeof exchangeOver>[2]) => exchangeOver('HTTP/1.1', this.proxy.url, request);
    const upload = new ResumableUpload(dialect, send, client.url!);
    const offset = progressOf(dialect, await upload.retrieve()).offset ?? 0;
    if (client.knows) client.permitted++;
    client.knows = false;
    const headers = appendLines(dialect, { offset, complete: true });
    const response = await send({ method: 'PATCH', target: upload.target, headers, body: BYTES.subarray(offset) });
    this.note(client, response);
    return response;
  }

  private note(client: DeliveryClient, { status, body }: WireResponse): void {
    const text = body.toString();
    if (text.includes('sends it once more')) client.knows = true;
    if (status !== 201) return;
    client.answer ??= text;
    if (client.answer !== text) this.broken.push(`${client.target}: ${client.answer}, then ${text}`);
  }

  private wholeRequests(target: string): number {
    return this.origin.exchanges.filter((exchange) => exchange.target === target && exchange.body.endedCleanly).length;
  }

  private async play(exchange: RawExchange): Promise<void> {
    this.reached('request');
    await exchange.readBytes(BYTES.length / 2);
    this.reached('half');
    await exchange.readBody();
    this.reached('whole');
    const text = `answer ${exchange.index}`;
    await exchange.write(`HTTP/1.1 201 Created\r\nContent-Length: ${text.length}\r\n\r\n${text.slice(0, 3)}`);
    this.reached('answering');
    await exchange.write(text.slice(3));
    this.reached('answered');
  }

  private reached(moment: Moment): void {
    if (moment !== this.moment || this.dying) return;
    const delayMs = Math.floor(this.random() ** 2 * 12);
    this.dying = new Promise((resolve) => setTimeout(resolve, delayMs)).then(() => this.kill());
  }

  private async kill(): Promise<void> {
    this.kills[this.moment!] = (this.kills[this.moment!] ?? 0) + 1;
    this.moment = undefined;
    await this.proxy.kill();
  }
}
