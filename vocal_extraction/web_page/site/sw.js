// The page without a network: all files are stored at the first visit, and taken from there until a new export.
const [VERSION, FILES] = ["", []]; // filled in by the export
const NAME = `${registration.scope} ${VERSION}`;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name !== NAME && name.startsWith(`${registration.scope} `);
  event.waitUntil(caches.keys().then((names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name)))).then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const stored = caches.open(NAME).then((cache) => cache.match(event.request, { ignoreSearch: true }));
  event.respondWith(stored.then((response) => response ?? fetch(event.request)));
});
