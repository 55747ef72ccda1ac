import type { Worker } from 'node:cluster';

/** What node:cluster's messages have in common; `seq` is answered with `ack`. */
interface ClusterMessage {
  readonly cmd?: string;
  readonly act?: string;
  readonly seq?: number;
  readonly ack?: number;
}

/**
 * Ends connections that were given to a worker which ended before it said that it had them. Node's primary process would
 * keep its copy open for ever, and the client would wait as long: needed until node:cluster closes them itself. They are
 * not given to another worker, which would take what is left of a request for the beginning of one.
 */
export function closeConnectionsLeftBy(worker: Worker): void {
  const child = worker.process;
  const given = new Set<number>();
  let isForgotten = false;
  const send = child.send.bind(child) as (...told: unknown[]) => boolean;
  child.send = (message: ClusterMessage, ...more: unknown[]) => {
    if (message.act === 'newconn' && message.seq !== undefined) given.add(message.seq);
    return send(message, ...more);
  };
  child.on('internalMessage', ({ ack }: ClusterMessage) => ack !== undefined && given.delete(ack));
  child.once('disconnect', () => (isForgotten = true));
  // By then every message that it sent has been read.
  child.once('close', () => {
    // Left out as well while a connection is on its way: without it, more would be given to the dead.
    if (!isForgotten) child.emit('disconnect');
    for (const seq of given) child.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack: seq, accepted: true });
  });
}
