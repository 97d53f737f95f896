// Files of the browser's private file system, as a worker reads and writes them.

export const FULL = "The browser's storage is full. Remove songs, or make room on the disk.";

// Opens a file of a folder to be read and written by position; `write` is all or an error.
export async function openFile(folder, name) {
  const handle = await (await folder.getFileHandle(name, { create: true })).createSyncAccessHandle();
  const write = (content, at = 0) => { if (handle.write(content, { at }) < content.byteLength) throw new Error(FULL); };
  return { write, read: (content, at) => handle.read(content, { at }), close: () => handle.close() };
}

export async function saveFile(folder, name, content) {
  const file = await openFile(folder, name);
  file.write(content);
  file.close();
}
