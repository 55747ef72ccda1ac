/**
 * The results of a task for each item, in the order of the items. Up to `width` tasks run at the same time, and no item
 * is taken before there is one to run, so a long source needs little memory. Rejects with the first failed task when
 * its turn comes; the tasks that run then are not waited for.
 */
export async function* resultsInOrder<T, R>(
  items: AsyncIterable<T> | Iterable<T>,
  width: number,
  task: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const running: Promise<R>[] = [];
  for await (const item of items) {
    const result = task(item);
    // Its caller gets the failure when its turn comes.
    result.catch(() => undefined);
    running.push(result);
    if (running.length >= width) yield await running.shift()!;
  }
  for (const result of running) yield await result;
}

/** Runs a task for each item, up to `width` at the same time; see `resultsInOrder`. */
export async function forEachOf<T>(
  items: AsyncIterable<T> | Iterable<T>,
  width: number,
  task: (item: T) => Promise<unknown>,
): Promise<void> {
  const results = resultsInOrder(items, width, task);
  while (!(await results.next()).done);
}
