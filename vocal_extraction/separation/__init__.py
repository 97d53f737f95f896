"""A song in, its sources out: in constant memory and at any length."""

from vocal_extraction.separation.disk_array import Array, DiskArray
from vocal_extraction.separation.separator import Cancelled, Progress, Separator, load_model, real_time_factor, separate
from vocal_extraction.separation.stems import StemPlan, stem_plan
from vocal_extraction.separation.streaming import StreamingSeparator
from vocal_extraction.separation.workers import worker_pool
