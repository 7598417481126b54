#include "engine/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { WORKER_NICE = 10 };

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list queue;
	size_t queue_n;
	bool ending;
	unsigned ready; /* threads that are nice */
	unsigned threads_n;
	pthread_t *threads;
};

/* A leak check looks here for what is left to the end of the process. */
static struct workers *volatile left;

static void *work(void *argument)
{
	struct workers *w = argument;
	struct list *link;

	pthread_setname_np(pthread_self(), "worker");
	/* Of this thread alone (setpriority(2), NOTES). */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), WORKER_NICE);
	pthread_mutex_lock(&w->lock);
	w->ready++;
	pthread_cond_broadcast(&w->changed);
	for (;;) {
		while (!w->ending && list_empty(&w->queue))
			pthread_cond_wait(&w->changed, &w->lock);
		if (w->ending)
			break;
		link = list_take(&w->queue);
		w->queue_n--;
		pthread_mutex_unlock(&w->lock);
		LIST_ENTRY(link, struct work, link)->run(LIST_ENTRY(link, struct work, link));
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

struct workers *workers_new(void)
{
	struct workers *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	list_init(&w->queue);
	return w;
}

int workers_start(struct workers *w, unsigned threads)
{
	sigset_t all, before;
	int err = 0;

	w->threads = calloc(threads, sizeof(*w->threads));
	if (w->threads == NULL)
		return -ENOMEM;
	/* Signals are for the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (w->threads_n < threads && err == 0) {
		err = pthread_create(&w->threads[w->threads_n], NULL, work, w);
		w->threads_n += err == 0;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_mutex_lock(&w->lock);
	while (w->ready < w->threads_n)
		pthread_cond_wait(&w->changed, &w->lock);
	pthread_mutex_unlock(&w->lock);
	/* One is enough. */
	return w->threads_n > 0 ? 0 : -err;
}

static void begin_end(struct workers *w)
{
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

void workers_free(struct workers *w)
{
	if (w == NULL)
		return;
	begin_end(w);
	for (unsigned i = 0; i < w->threads_n; i++)
		pthread_join(w->threads[i], NULL);
	free(w->threads);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void workers_leave(struct workers *w)
{
	if (w == NULL || w->threads_n == 0) {
		workers_free(w);
		return;
	}
	begin_end(w);
	for (unsigned i = 0; i < w->threads_n; i++)
		pthread_detach(w->threads[i]);
	left = w;
}

bool workers_give(struct workers *w, struct work *one, size_t max)
{
	bool taken;

	if (w->threads_n == 0) {
		one->run(one);
		return true;
	}
	pthread_mutex_lock(&w->lock);
	taken = w->queue_n < max;
	if (taken) {
		list_init(&one->link);
		list_append(&w->queue, &one->link);
		w->queue_n++;
		pthread_cond_signal(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	return taken;
}

size_t workers_waiting(struct workers *w)
{
	size_t n;

	pthread_mutex_lock(&w->lock);
	n = w->queue_n;
	pthread_mutex_unlock(&w->lock);
	return n;
}
