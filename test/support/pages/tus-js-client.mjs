// Runs tus-js-client in a web page as a test tells it.
import { Upload } from 'tus-js-client';

const chosen = () => document.querySelector('input').files[0];

/** Uploads the chosen file to its end, and says how it ended. With `isResumed` it continues what the storage has. */
window.upload = ({ options, isStream, isResumed }) =>
  new Promise((resolve, reject) => {
    const upload = new Upload(isStream ? chosen().stream().getReader() : chosen(), {
      ...options,
      onSuccess: ({ lastResponse }) => resolve({ end: 'success', body: lastResponse.getBody() || '' }),
      onError: (error) => {
        const response = error.originalResponse;
        if (response) resolve({ end: response.getStatus(), body: response.getBody() || '' });
        else reject(error);
      },
    });
    if (!isResumed) return upload.start();
    upload
      .findPreviousUploads()
      .then(([previous]) => upload.resumeFromPreviousUpload(previous))
      .then(() => upload.start(), reject);
  });

/** Uploads the first piece, or one of each part, and stops. */
window.uploadFirstPiece = async ({ options }) => void (await stopped(options));

/** Uploads the first piece, or one of each part, and tells the server to forget it. Gives the URLs, and how many uploads the storage has. */
window.terminate = async ({ options }) => {
  const upload = await stopped(options);
  const [{ parallelUploadUrls }] = await upload.findPreviousUploads();
  await upload.abort(true);
  return { urls: parallelUploadUrls ?? [upload.url], stored: localStorage.length };
};

async function stopped(options) {
  localStorage.clear();
  const urls = new Set();
  let pieces = 0;
  const upload = new Upload(chosen(), {
    ...options,
    onChunkComplete: () => (pieces += 1),
    // A second piece waits for ever, so that the client stops where it should.
    onBeforeRequest: async (request) => {
      if (request.getMethod() !== 'PATCH') return;
      if (urls.has(request.getURL())) await new Promise(() => {});
      urls.add(request.getURL());
    },
  });
  upload.start();
  while (pieces < (options.parallelUploads ?? 1) || localStorage.length === 0)
    await new Promise((resolve) => setTimeout(resolve, 5));
  await upload.abort();
  return upload;
}
