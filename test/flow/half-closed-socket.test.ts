import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer, type Server as TlsServer } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { keepReadingAfterWriteError } from '../../src/origin/half-closed-socket.js';
import { resetConnection } from '../../src/server/closing.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { makeCertificate, until } from '../support/temporary.js';

describe('half-closed sockets', () => {
  const ANSWER = 'the answer';

  /** What a socket's owner sees of it. */
  class Watched {
    text = '';
    readonly events: string[] = [];

    constructor(readonly socket: Socket) {
      socket.on('data', (bytes: Buffer) => (this.text += bytes.toString()));
      socket.on('end', () => this.events.push('end'));
      socket.on('error', (error: NodeJS.ErrnoException) => this.events.push(error.code ?? error.message));
      socket.on('close', () => this.events.push('close'));
    }

    closed(): Promise<unknown> {
      return until(
        () => this.events.includes('close'),
        () => `the end of the socket (${this.events.join()})`,
      );
    }
  }

  function codeOf(error: NodeJS.ErrnoException | null | undefined): string | undefined {
    return error?.code;
  }

  let server: Server;
  let ours: Socket;
  let peer: Socket;

  beforeEach(async () => {
    server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    [ours, peer] = await pair(server, () => connect((server.address() as AddressInfo).port, '127.0.0.1'), 'connection');
  });

  afterEach(async () => {
    ours.destroy();
    peer.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  async function pair(listener: Server, open: () => Socket, event: string): Promise<[Socket, Socket]> {
    const accepted = once(listener, event) as Promise<[Socket]>;
    const socket = open();
    const [other] = await accepted;
    await until(() => !socket.connecting, 'the connection');
    other.on('error', () => undefined);
    return [socket, other];
  }

  /** The peer answers and resets the connection; we hear nothing of it before we write. */
  function answerAndReset(): void {
    peer.write(ANSWER);
    resetConnection(peer);
    ours.write('more of the body');
  }

  describe('a peer that answers and resets', () => {
    test('is not heard by a plain socket', async () => {
      const seen = new Watched(ours);
      answerAndReset();
      await seen.closed();
      expect(seen.text).toBe('');
    });

    test('is heard to its end by a patient one, which does not take the reset for a proper end', async () => {
      const seen = new Watched(keepReadingAfterWriteError(ours));
      answerAndReset();
      await seen.closed();
      expect(seen.text).toBe(ANSWER);
      expect(seen.events).toEqual(['ECONNRESET', 'close']);
    });

    test('is not taken for a proper end when both come at once', async () => {
      const seen = new Watched(keepReadingAfterWriteError(ours));
      peer.write(ANSWER);
      resetConnection(peer);
      await seen.closed();
      expect(seen.text).toBe(ANSWER);
      expect(seen.events).toEqual(['ECONNRESET', 'close']);
    });

    test('is heard when our reader pauses in between', async () => {
      const seen = new Watched(keepReadingAfterWriteError(ours));
      ours.pause();
      answerAndReset();
      await until(() => ours.readableLength === ANSWER.length, 'the answer to wait in the socket');
      expect(seen.events).toEqual([]);
      ours.resume();
      await seen.closed();
      expect(seen.text).toBe(ANSWER);
      expect(seen.events).toEqual(['ECONNRESET', 'close']);
    });

    test('every write after the refused one is told so when the socket closes', async () => {
      const seen = new Watched(keepReadingAfterWriteError(ours));
      answerAndReset();
      const told: (string | undefined)[] = [];
      ours.write('still more', (error) => told.push(codeOf(error)));
      ours.write('and more', (error) => told.push(codeOf(error)));
      await seen.closed();
      await until(() => told.length === 2, 'both writes to be told');
      expect(told).not.toContain(undefined);
    });
  });

  test('a proper end stays one', async () => {
    const seen = new Watched(keepReadingAfterWriteError(ours));
    peer.end(ANSWER);
    await seen.closed();
    expect(seen.text).toBe(ANSWER);
    expect(seen.events).toEqual(['end', 'close']);
  });

  describe('a peer that answers, ends its side and closes', () => {
    async function answerAndClose(): Promise<void> {
      ours.pause();
      peer.end(ANSWER);
      await once(peer, 'finish');
      // Nobody reads what we send from here on: it is met with a reset.
      peer.destroy();
      ours.write('part of the body');
      await until(() => ours.bytesWritten > 0, 'the write that is met with a reset');
      ours.write('more of the body');
      ours.resume();
    }

    test('is not heard by a plain socket', async () => {
      const seen = new Watched(ours);
      await answerAndClose();
      await seen.closed();
      expect(seen.events).toContain('EPIPE');
      expect(seen.text).toBe('');
    });

    test('is heard to its proper end by a patient one', async () => {
      const seen = new Watched(keepReadingAfterWriteError(ours));
      await answerAndClose();
      await seen.closed();
      expect(seen.text).toBe(ANSWER);
      expect(seen.events).toEqual(['end', 'close']);
    });
  });

  test('a peer that refuses bytes and says nothing is given up after a while', async () => {
    const refusal = Object.assign(new Error('refused'), { code: 'EPIPE' });
    ours._writev = undefined;
    ours._write = (_bytes, _encoding, done) => done(refusal);
    const seen = new Watched(keepReadingAfterWriteError(ours, 20));
    ours.write('anything');
    await seen.closed();
    expect(seen.events).toEqual(['EPIPE', 'close']);
  });

  test('a peer that refuses bytes is not silent while we keep it from being read', async () => {
    const refusal = Object.assign(new Error('refused'), { code: 'EPIPE' });
    const refused = (socket: Socket): Watched => {
      socket._writev = undefined;
      socket._write = (_bytes, _encoding, done) => done(refusal);
      const watched = new Watched(keepReadingAfterWriteError(socket, 20));
      socket.write('anything');
      return watched;
    };
    const gate = ReadGate.of(ours);
    gate.hold();
    const seen = refused(ours);
    peer.write(ANSWER);
    // As long as somebody needs to be given up, twice over.
    for (let count = 0; count < 2; count++) {
      const port = (server.address() as AddressInfo).port;
      const [other, silent] = await pair(server, () => connect(port, '127.0.0.1'), 'connection');
      await refused(other).closed();
      silent.destroy();
    }
    expect(seen.events).toEqual([]);
    gate.release();
    await seen.closed();
    expect([seen.text, seen.events]).toEqual([ANSWER, ['EPIPE', 'close']]);
  });

  test('errors that are no refusal end the socket at once', async () => {
    ours._writev = undefined;
    ours._write = (_bytes, _encoding, done) => done(Object.assign(new Error('broken'), { code: 'EINVAL' }));
    const seen = new Watched(keepReadingAfterWriteError(ours));
    ours.write('anything');
    await seen.closed();
    expect(seen.events).toEqual(['EINVAL', 'close']);
  });

  test('a patient socket that is destroyed by its owner closes at once, also in its patience', async () => {
    const seen = new Watched(keepReadingAfterWriteError(ours));
    ours.pause();
    answerAndReset();
    ours.destroy();
    await seen.closed();
    expect(seen.events).toEqual(['close']);
  });

  describe('over TLS', () => {
    let secure: TlsServer;

    afterEach(() => new Promise((resolve) => secure.close(resolve)));

    /** The peer answers and resets the connection below TLS; we hear nothing of it before we write. */
    async function answered(prepare: (client: Socket) => Socket): Promise<Watched> {
      const certificate = makeCertificate();
      secure = createTlsServer(certificate);
      await new Promise<void>((resolve) => secure.listen(0, '127.0.0.1', resolve));
      const { port } = secure.address() as AddressInfo;
      const below = once(secure, 'connection') as Promise<[Socket]>;
      const open = () => connectTls({ port, host: '127.0.0.1', ca: certificate.cert });
      const [client, other] = await pair(secure, open, 'secureConnection');
      const [raw] = await below;
      // Or the answer waits to be sent when the reset takes it away.
      raw.setNoDelay(true);
      other.write('hello');
      await once(client, 'data');
      const seen = new Watched(prepare(client));
      other.write(ANSWER, () => {
        resetConnection(raw);
        client.write('more of the body');
      });
      await seen.closed();
      return seen;
    }

    test('a plain socket does not hear the answer', async () => {
      expect((await answered((client) => client)).text).toBe('');
    });

    test('a patient one does', async () => {
      const seen = await answered(keepReadingAfterWriteError);
      expect(seen.text).toBe(ANSWER);
      expect(seen.events.at(-1)).toBe('close');
    });
  });
});
