/** Attempts in a row without progress, with their delays in milliseconds: enough for every button of the page. */
const RETRY_DELAYS = [0, 300, 600, ...Array(60).fill(1000)];

const retry = (failures) => RETRY_DELAYS[failures];

/** Clients that send a file to a path and give the status and body of the API's answer. */
export const senders = {
  async ours(file, target, signal) {
    const { resumableFetch } = await import('./client.js');
    const response = await resumableFetch(target, { body: file }, { signal, retry });
    return { status: response.status, body: await response.text() };
  },

  async tus(file, target, signal) {
    const { Upload } = await import('./tus.js');
    return new Promise((resolve, reject) => {
      const upload = new Upload(file, {
        endpoint: target,
        metadata: { filename: file.name, filetype: file.type },
        retryDelays: RETRY_DELAYS,
        removeFingerprintOnSuccess: true,
        onSuccess: ({ lastResponse }) => resolve({ status: lastResponse.getStatus(), body: lastResponse.getBody() }),
        onError: (error) => {
          const response = error.originalResponse;
          if (response) resolve({ status: response.getStatus(), body: response.getBody() });
          else reject(error);
        },
      });
      signal.addEventListener('abort', () => {
        void upload.abort();
        reject(signal.reason);
      });
      void upload.findPreviousUploads().then(([previous]) => {
        if (previous) upload.resumeFromPreviousUpload(previous);
        upload.start();
      });
    });
  },
};

/**
 * Shows Uppy's dashboard, which picks and sends files by itself. `begin` gets the file and gives its path; `end` gets
 * the API's answer, an error, or nothing if the upload was cancelled.
 */
export async function mountUppy(element, { begin, end }) {
  const stylesheet = document.createElement('link');
  Object.assign(stylesheet, { rel: 'stylesheet', href: 'uppy.css' });
  document.head.append(stylesheet);
  const { Uppy, Dashboard, Tus } = await import('./uppy.js');
  const uppy = new Uppy({ restrictions: { maxNumberOfFiles: 1 } })
    .use(Dashboard, {
      inline: true,
      target: element,
      width: '100%',
      height: 260,
      theme: 'auto',
      proudlyDisplayPoweredByUppy: false,
      disableThumbnailGenerator: true,
    })
    .use(Tus, { endpoint: '/files/', retryDelays: RETRY_DELAYS, removeFingerprintOnSuccess: true, limit: 1 });
  uppy.on('upload', (_id, [file]) => {
    uppy.getPlugin('Tus').setOptions({ endpoint: begin(file.data) });
  });
  // The status that Uppy itself tells is always 200.
  uppy.on('upload-success', (_file, { body: { xhr } }) =>
    end({ answer: { status: xhr.status, body: xhr.responseText } }),
  );
  uppy.on('upload-error', (_file, error) => {
    const response = error.originalResponse;
    end(response ? { answer: { status: response.getStatus(), body: response.getBody() } } : { error });
  });
  uppy.on('cancel-all', () => end({}));
  return {
    add(file) {
      uppy.cancelAll();
      uppy.addFile({ name: file.name, type: file.type, data: file, source: 'sample' });
    },
  };
}
